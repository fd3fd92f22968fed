"""The two networks of a model, each a chain of stochastic layers, bottom layer first.

x is the data, z = [z_1, ..., z_L] the latent variables of the L stochastic layers (the papers write h).

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
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


class GenerativeNetwork(keras.layers.Layer):
    """p(x, z) = p(x | z_1) p(z_1 | z_2) ... p(z_L), equation (1) of [1].

    Args:
      conditionals: layers that return distributions, p(x | z_1) first.
      prior: the distribution of z_L, a `tfd.MultivariateNormalDiag` or another with a `bijector`.
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


def paper_networks(event_size, latent_dims=(50,), hidden_dims=((200, 200),), output_bias=None, seed=0):
    """Builds the paper's networks for any number of stochastic layers [1, section 5].

    Args:
      event_size: the number of pixels.
      latent_dims: the sizes of z_1, ..., z_L.
      hidden_dims: for each stochastic layer, the widths of the hidden layers below it; the generative network
        mirrors them.
      output_bias: initial logits of the pixels, [event_size], or None for zeros.
      seed: seed of the initial weights.

    Returns:
      A `BottomUpInference` and a `GenerativeNetwork`.
    """
    num_layers = len(latent_dims)
    seeds = np.random.SeedSequence(seed).generate_state(2 * num_layers).tolist()
    inference = BottomUpInference(
        [
            layers.GaussianLayer(units, hidden, seed=seeds.pop(), name=f"q_z{i + 1}")
            for i, (units, hidden) in enumerate(zip(latent_dims, hidden_dims, strict=True))
        ],
        name="inference",
    )
    decoder = layers.BernoulliLayer(
        event_size, hidden_dims[0][::-1], seed=seeds.pop(), output_bias=output_bias, name="p_x"
    )
    between = [
        layers.GaussianLayer(units, hidden[::-1], seed=seeds.pop(), name=f"p_z{i + 1}")
        for i, (units, hidden) in enumerate(zip(latent_dims[:-1], hidden_dims[1:], strict=True))
    ]
    return inference, GenerativeNetwork([decoder, *between], layers.standard_normal(latent_dims[-1]), name="generative")
