"""The two networks of a model, each a chain of stochastic layers, bottom layer first.

x is the data, z = [z_1, ..., z_L] the latent variables of the L stochastic layers (the papers write h).

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: Casper Kaae Sonderby et al. Ladder Variational Autoencoders. arXiv:1602.02282.
"""

import keras
import numpy as np

from iwae_tf import layers


class BottomUpInference(keras.layers.Layer):
    """q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}), equation (2) of [1].

    Args:
      stochastic_layers: layers that return distributions with a `bijector`, q(z_1 | x) first.
    """

    def __init__(self, stochastic_layers, **kwargs):
        super().__init__(**kwargs)
        self.stochastic_layers = list(stochastic_layers)

    @property
    def latent_dims(self):
        """The sizes of z_1, ..., z_L."""
        return [layer.units for layer in self.stochastic_layers]

    def call(self, x, noise):
        """Samples every layer by pushing noise through the distributions' own transformations.

        Args:
          x: float tensor [batch, event].
          noise: L standard normal tensors [num_samples, batch, d_l].

        Returns:
          The samples, L tensors [num_samples, batch, d_l], and the L distributions that they come from; the first
          has batch shape [batch], the others [num_samples, batch].
        """
        samples, distributions = [], []
        inputs = x
        for layer, epsilon in zip(self.stochastic_layers, noise, strict=True):
            distributions.append(layer(inputs))
            inputs = distributions[-1].bijector.forward(epsilon)
            samples.append(inputs)
        return samples, distributions

    def distributions(self, x, z):
        """The distributions that `call` returns, of x [batch, event] at given z, L x [num_samples, batch, d_l]."""
        return [layer(inputs) for layer, inputs in zip(self.stochastic_layers, [x, *z[:-1]], strict=True)]


class LadderInference(keras.layers.Layer):
    """q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x) of the Ladder VAE [2].

    A deterministic pass upwards, d_l = hidden layers of d_{l-1} with d_0 = x, gives a Gaussian of every layer. On the
    way down each but the topmost is merged with the generative network's p(z_l | z_{l+1}), by their precisions.

    Args:
      upward_layers: `layers.GaussianLayer`s or others with `features` and `distribution`, that of z_1 first.
      conditionals: the generative network's layers of p(z_1 | z_2), ..., p(z_{L-1} | z_L), which are shared.
    """

    def __init__(self, upward_layers, conditionals, **kwargs):
        super().__init__(**kwargs)
        self.upward_layers = list(upward_layers)
        self.conditionals = list(conditionals)

    @property
    def shares_weights(self):
        """Whether there are generative layers to merge with; one stochastic layer has none."""
        return bool(self.conditionals)

    @property
    def latent_dims(self):
        """The sizes of z_1, ..., z_L."""
        return [layer.units for layer in self.upward_layers]

    def build(self, x_shape, noise_shape):
        """Creates nothing, but tells Keras that the upward layers are used part by part and never called."""
        for layer in self.upward_layers:
            layer.built = True

    def call(self, x, noise):
        """Samples every layer, from the top down.

        Args:
          x: float tensor [batch, event].
          noise: L standard normal tensors [num_samples, batch, d_l].

        Returns:
          The samples, L tensors [num_samples, batch, d_l], and the L distributions that they come from, bottom layer
          first; the last has batch shape [batch], the others [num_samples, batch].
        """
        *upward, top = self._upward(x)
        samples, distributions = [top.bijector.forward(noise[-1])], [top]
        for from_x, conditional, epsilon in zip(upward[::-1], self.conditionals[::-1], noise[-2::-1], strict=True):
            distributions.append(layers.precision_weighted(from_x, conditional(samples[-1])))
            samples.append(distributions[-1].bijector.forward(epsilon))
        return samples[::-1], distributions[::-1]

    def distributions(self, x, z):
        """The distributions that `call` returns, of x [batch, event] at given z, L x [num_samples, batch, d_l]."""
        *upward, top = self._upward(x)
        merged = [
            layers.precision_weighted(from_x, conditional(above))
            for from_x, conditional, above in zip(upward, self.conditionals, z[1:], strict=True)
        ]
        return [*merged, top]

    def _upward(self, x):
        """The Gaussians of the upward pass, L of batch shape [batch]."""
        gaussians, features = [], x
        for layer in self.upward_layers:
            features = layer.features(features)
            gaussians.append(layer.distribution(features))
        return gaussians


class GenerativeNetwork(keras.layers.Layer):
    """p(x, z) = p(x | z_1) p(z_1 | z_2) ... p(z_L), equation (1) of [1].

    Args:
      conditionals: layers that return distributions, p(x | z_1) first.
      prior: the distribution of z_L, a `layers.DiagonalNormal` or another with a `bijector`.
    """

    def __init__(self, conditionals, prior, **kwargs):
        super().__init__(**kwargs)
        self.conditionals = list(conditionals)
        self.prior = prior

    @property
    def event_size(self):
        """The number of values in x."""
        return self.conditionals[0].units

    def call(self, z):
        """Maps z_1, ..., z_L to the L + 1 distributions p(x | z_1), p(z_1 | z_2), ..., p(z_L)."""
        return [layer(z_l) for layer, z_l in zip(self.conditionals, z, strict=True)] + [self.prior]

    def decode(self, z_1):
        """Returns p(x | z_1)."""
        return self.conditionals[0](z_1)

    def sample(self, noise):
        """Draws z_L from the prior and then downwards to z_1, and returns p(x | z_1).

        Args:
          noise: L standard normal tensors [..., d_l], bottom layer first.

        Returns:
          The distribution of x given the drawn z_1.
        """
        *noise, top_noise = noise
        z = self.prior.bijector.forward(top_noise)
        for layer, epsilon in zip(self.conditionals[:0:-1], reversed(noise), strict=True):
            z = layer(z).bijector.forward(epsilon)
        return self.decode(z)


def paper_networks(
    event_size,
    latent_dims=(50,),
    hidden_dims=((200, 200),),
    inference="bottom_up",
    output_bias=None,
    seed=0,
    **hidden_kwargs,
):
    """Builds the paper's networks for any number of stochastic layers [1, section 5], or those of the Ladder VAE [2].

    Args:
      event_size: the number of pixels.
      latent_dims: the sizes of z_1, ..., z_L.
      hidden_dims: for each stochastic layer, the widths of the hidden layers below it; the generative network
        mirrors them.
      inference: a name from `INFERENCE`.
      output_bias: initial logits of the pixels, [event_size], or None for zeros.
      seed: seed of the initial weights.
      **hidden_kwargs: `activation` and `batch_norm` of the hidden layers, see `layers.StochasticLayer`.

    Returns:
      An inference network and a `GenerativeNetwork`.

    Raises:
      ValueError: an unknown name.
    """
    if inference not in INFERENCE:
        raise ValueError(f"inference is {inference!r}, but must be one of {', '.join(INFERENCE)}.")
    seeds = np.random.SeedSequence(seed).generate_state(2 * len(latent_dims)).tolist()
    upward = [
        layers.GaussianLayer(units, hidden, seed=seeds.pop(), name=f"q_z{i + 1}", **hidden_kwargs)
        for i, (units, hidden) in enumerate(zip(latent_dims, hidden_dims, strict=True))
    ]
    decoder = layers.BernoulliLayer(
        event_size, hidden_dims[0][::-1], seed=seeds.pop(), output_bias=output_bias, name="p_x", **hidden_kwargs
    )
    between = [
        layers.GaussianLayer(units, hidden[::-1], seed=seeds.pop(), name=f"p_z{i + 1}", **hidden_kwargs)
        for i, (units, hidden) in enumerate(zip(latent_dims[:-1], hidden_dims[1:], strict=True))
    ]
    generative = GenerativeNetwork([decoder, *between], layers.standard_normal(latent_dims[-1]), name="generative")
    return INFERENCE[inference](upward, between), generative


# Name -> a function of the inference network's own layers and the generative network's between z_1, ..., z_L.
INFERENCE = {
    "bottom_up": lambda upward, between: BottomUpInference(upward, name="inference"),
    "ladder": lambda upward, between: LadderInference(upward, between, name="inference"),
}
