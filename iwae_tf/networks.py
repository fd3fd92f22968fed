"""The inference and the generative network of a model, each a chain of stochastic layers, bottom layer first.

x is the data and z = [z_1, ..., z_L] are the latent variables of the L stochastic layers (the papers write h).
epsilon = [epsilon_1, ..., epsilon_L] are the standard normal tensors that become samples of z.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: Casper Kaae Sonderby et al. Ladder Variational Autoencoders. arXiv:1602.02282.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf import layers, paper


class BottomUpInference(keras.layers.Layer):
    """q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}), equation (2) of [1].

    Args:
      stochastic_layers: layers that return distributions with a `bijector`, q(z_1 | x) first.
    """

    stochastic_layers: list[keras.layers.Layer]

    def __init__(self, stochastic_layers: Sequence[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stochastic_layers = list(stochastic_layers)

    @property
    def latent_dims(self) -> list[int]:
        """The sizes of z_1, ..., z_L."""
        return [layer.units for layer in self.stochastic_layers]

    def call(self, x: tf.Tensor, epsilon: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], list[tfd.Distribution]]:
        """Samples every layer by pushing epsilon through the distributions' bijectors.

        Args:
          x: float tensor [batch, event].
          epsilon: L standard normal tensors [num_samples, batch, d_l].

        Returns:
          The samples, L tensors [num_samples, batch, d_l], and the L distributions that they come from; the first
          has batch shape [batch], the others [num_samples, batch].
        """
        samples: list[tf.Tensor] = []
        distributions: list[tfd.Distribution] = []
        inputs = x
        for layer, epsilon_l in zip(self.stochastic_layers, epsilon, strict=True):
            distributions.append(layer(inputs))
            inputs = distributions[-1].bijector.forward(epsilon_l)
            samples.append(inputs)
        return samples, distributions

    def distributions(self, x: tf.Tensor, z: Sequence[tf.Tensor]) -> list[tfd.Distribution]:
        """Returns the distributions of `call` for x [batch, event] at given z, L x [num_samples, batch, d_l]."""
        return [layer(inputs) for layer, inputs in zip(self.stochastic_layers, [x, *z[:-1]], strict=True)]


class LadderInference(keras.layers.Layer):
    """q(z | x) = q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x) of the Ladder VAE [2].

    A deterministic upward pass, d_l = hidden layers of d_{l-1} with d_0 = x, gives a Gaussian for every layer. On the
    way down, each Gaussian except the topmost is merged with the generative network's p(z_l | z_{l+1}), weighted by
    their precisions.

    Args:
      upward_layers: `layers.GaussianLayer`s or other layers with `features` and `distribution`, that of z_1 first.
      conditionals: the generative network's layers of p(z_1 | z_2), ..., p(z_{L-1} | z_L), which are shared.
    """

    upward_layers: list[keras.layers.Layer]
    conditionals: list[keras.layers.Layer]

    def __init__(
        self, upward_layers: Sequence[keras.layers.Layer], conditionals: Sequence[keras.layers.Layer], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.upward_layers = list(upward_layers)
        self.conditionals = list(conditionals)

    @property
    def shares_weights(self) -> bool:
        """Whether there are generative layers to merge with; with one stochastic layer there are none."""
        return bool(self.conditionals)

    @property
    def latent_dims(self) -> list[int]:
        """The sizes of z_1, ..., z_L."""
        return [layer.units for layer in self.upward_layers]

    def build(self, x_shape: tuple, epsilon_shape: Sequence[tuple]) -> None:
        """Marks the upward layers as built: their parts are used, but the layers themselves are never called."""
        for layer in self.upward_layers:
            layer.built = True

    def call(self, x: tf.Tensor, epsilon: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], list[tfd.Distribution]]:
        """Samples every layer, from the top down.

        Args:
          x: float tensor [batch, event].
          epsilon: L standard normal tensors [num_samples, batch, d_l].

        Returns:
          The samples, L tensors [num_samples, batch, d_l], and the L distributions that they come from, bottom layer
          first; the last has batch shape [batch], the others [num_samples, batch].
        """
        *upward, topmost = self._upward(x)
        samples, distributions = [topmost.bijector.forward(epsilon[-1])], [topmost]
        for from_x, conditional, epsilon_l in zip(upward[::-1], self.conditionals[::-1], epsilon[-2::-1], strict=True):
            distributions.append(layers.precision_weighted(from_x, conditional(samples[-1])))
            samples.append(distributions[-1].bijector.forward(epsilon_l))
        return samples[::-1], distributions[::-1]

    def distributions(self, x: tf.Tensor, z: Sequence[tf.Tensor]) -> list[tfd.Distribution]:
        """Returns the distributions of `call` for x [batch, event] at given z, L x [num_samples, batch, d_l]."""
        *upward, topmost = self._upward(x)
        merged = [
            layers.precision_weighted(from_x, conditional(above))
            for from_x, conditional, above in zip(upward, self.conditionals, z[1:], strict=True)
        ]
        return [*merged, topmost]

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
      prior: the distribution of z_L, a `layers.DiagonalNormal` or another distribution with a `bijector`.
    """

    conditionals: list[keras.layers.Layer]
    prior: tfd.Distribution

    def __init__(self, conditionals: Sequence[keras.layers.Layer], prior: tfd.Distribution, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conditionals = list(conditionals)
        self.prior = prior

    @property
    def event_size(self) -> int:
        """The number of values in x."""
        return self.conditionals[0].units

    def call(self, z: Sequence[tf.Tensor]) -> list[tfd.Distribution]:
        """Maps z_1, ..., z_L to the L + 1 distributions p(x | z_1), p(z_1 | z_2), ..., p(z_L)."""
        return [layer(z_l) for layer, z_l in zip(self.conditionals, z, strict=True)] + [self.prior]

    def decode(self, z_1: tf.Tensor) -> tfd.Distribution:
        """Returns p(x | z_1)."""
        return self.conditionals[0](z_1)

    def sample(self, epsilon: Sequence[tf.Tensor]) -> tfd.Distribution:
        """Draws z_L from the prior, then z_{L-1}, ..., z_1 from the conditionals, and returns p(x | z_1).

        Args:
          epsilon: L standard normal tensors [..., d_l], bottom layer first.

        Returns:
          The distribution of x given the drawn z_1.
        """
        z = self.prior.bijector.forward(epsilon[-1])
        for layer, epsilon_l in zip(self.conditionals[:0:-1], epsilon[-2::-1], strict=True):
            z = layer(z).bijector.forward(epsilon_l)
        return self.decode(z)


def paper_networks(
    event_size: int,
    latent_dims: Sequence[int] = (50,),
    hidden_dims: Sequence[Sequence[int]] | None = None,
    inference: str = "bottom_up",
    output_bias: np.ndarray | None = None,
    seed: int = 0,
    **hidden_kwargs: Any,
) -> tuple[BottomUpInference | LadderInference, GenerativeNetwork]:
    """Builds the paper's networks for any number of stochastic layers [1, section 5], or those of the Ladder VAE [2].

    Args:
      event_size: the number of pixels.
      latent_dims: the sizes of z_1, ..., z_L.
      hidden_dims: for each stochastic layer, the widths of the hidden layers below it; the generative network
        mirrors them. None means the paper's, `paper.hidden_dims`.
      inference: a key of `INFERENCE`.
      output_bias: initial logits of the pixels, [event_size], or None for zeros.
      seed: seed of the initial weights.
      **hidden_kwargs: `activation` and `batch_norm` of the hidden layers, see `layers.StochasticLayer`.

    Returns:
      An inference network and a `GenerativeNetwork`.

    Raises:
      ValueError: the name is unknown, or the sizes do not describe the same stochastic layers.
    """
    if inference not in INFERENCE:
        raise ValueError(f"inference is {inference!r}, but must be one of {', '.join(INFERENCE)}.")
    hidden_dims = _checked_hidden_dims(latent_dims, hidden_dims)
    upward, decoder, between = _stochastic_layers(
        event_size, latent_dims, hidden_dims, seed, output_bias, hidden_kwargs
    )
    generative = GenerativeNetwork([decoder, *between], layers.standard_normal(latent_dims[-1]), name="generative")
    return INFERENCE[inference](upward, between), generative


def _checked_hidden_dims(latent_dims, hidden_dims):
    """Returns hidden_dims, or the paper's for None, and raises a ValueError for sizes that do not fit together."""
    if not _are_positive_integers(latent_dims) or not latent_dims:
        raise ValueError(f"latent_dims is {latent_dims!r}, but must be positive integers, such as (100, 50).")
    papers = paper.hidden_dims(len(latent_dims))
    if hidden_dims is None:
        return papers
    are_widths = isinstance(hidden_dims, Sequence) and all(map(_are_positive_integers, hidden_dims))
    if not are_widths or len(hidden_dims) != len(latent_dims):
        raise ValueError(
            f"hidden_dims is {hidden_dims!r}, but must be one sequence of widths per stochastic layer of "
            f"latent_dims={latent_dims!r}, such as {papers}."
        )
    return hidden_dims


def _are_positive_integers(values):
    return isinstance(values, Sequence) and all(isinstance(value, Integral) and value > 0 for value in values)


def _stochastic_layers(event_size, latent_dims, hidden_dims, seed, output_bias, hidden_kwargs):
    """Returns the layers of q(z_l | ...), of p(x | z_1), and of p(z_1 | z_2), ..., p(z_{L-1} | z_L)."""
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
    return upward, decoder, between


# Name -> a function that builds the inference network from the layers of q(z_l | ...) and those of p(z_l | z_{l+1}).
INFERENCE: dict[str, Callable[[list, list], BottomUpInference | LadderInference]] = {
    "bottom_up": lambda upward, between: BottomUpInference(upward, name="inference"),
    "ladder": lambda upward, between: LadderInference(upward, between, name="inference"),
}
