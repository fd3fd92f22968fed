"""The inference and the generative network of a model, each a chain of stochastic layers, bottom layer first.

x is the data and z = [z_1, ..., z_L] are the latent variables of the L stochastic layers (the papers write h).
epsilon = [epsilon_1, ..., epsilon_L] are the standard normal tensors that become samples of z.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
[2]: Casper Kaae Sonderby et al. Ladder Variational Autoencoders. arXiv:1602.02282.
"""

import functools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf import layers, paper


@keras.saving.register_keras_serializable(layers.PACKAGE)
class BottomUpInference(keras.layers.Layer):
    """q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}), equation (2) of [1].

    Args:
      stochastic_layers: layers that return distributions with a `bijector`, q(z_1 | x) first.

    Raises:
      ValueError: there is none, or one has no `units`.
    """

    stochastic_layers: list[keras.layers.Layer]

    def __init__(self, stochastic_layers: Sequence[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(**_without_autocast(kwargs))
        self.stochastic_layers = _checked_layers("stochastic_layers", stochastic_layers)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stochastic_layers": _serialized(self.stochastic_layers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BottomUpInference":
        """The inverse of `get_config`."""
        return layers.frozen_as_configured(cls(**_deserialized(config, "stochastic_layers")), config)

    def build(self, x_shape: tuple, epsilon_shape: Sequence[tuple]) -> None:
        """Does nothing: the layers are built when they are called."""

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
            inputs = _pushed_forward(epsilon_l, distributions[-1])
            samples.append(inputs)
        return samples, distributions

    def distributions(self, x: tf.Tensor, z: Sequence[tf.Tensor]) -> list[tfd.Distribution]:
        """Returns the distributions of `call` for x [batch, event] at given z, L x [num_samples, batch, d_l]."""
        return [layer(inputs) for layer, inputs in zip(self.stochastic_layers, [x, *z[:-1]], strict=True)]


@keras.saving.register_keras_serializable(layers.PACKAGE)
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
        super().__init__(**_without_autocast(kwargs))
        self.upward_layers = _checked_layers("upward_layers", upward_layers)
        self.conditionals = list(conditionals)

    def get_config(self) -> dict[str, Any]:
        shared = {name: _serialized(getattr(self, name)) for name in ("upward_layers", "conditionals")}
        return {**super().get_config(), **shared}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LadderInference":
        """The inverse of `get_config`, but for the layers that are shared, see `sharing`."""
        network = cls(**_deserialized(_deserialized(config, "upward_layers"), "conditionals"))
        return layers.frozen_as_configured(network, config)

    def sharing(self, generative: "GenerativeNetwork") -> "LadderInference":
        """Returns a network with the same upward layers that shares the layers of a generative network."""
        kwargs = {"name": self.name, "dtype": self.dtype_policy, "trainable": self.trainable}
        return LadderInference(self.upward_layers, generative.conditionals[1:], **kwargs)

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
        samples, distributions = [_pushed_forward(epsilon[-1], topmost)], [topmost]
        for from_x, conditional, epsilon_l in zip(upward[::-1], self.conditionals[::-1], epsilon[-2::-1], strict=True):
            distributions.append(layers.precision_weighted(from_x, conditional(samples[-1])))
            samples.append(_pushed_forward(epsilon_l, distributions[-1]))
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


@keras.saving.register_keras_serializable(layers.PACKAGE)
class GenerativeNetwork(keras.layers.Layer):
    """p(x, z) = p(x | z_1) p(z_1 | z_2) ... p(z_L), equation (1) of [1].

    Args:
      conditionals: layers that return distributions, p(x | z_1) first.
      prior: the distribution of z_L, a `layers.DiagonalNormal` or another distribution with a `bijector`.
    """

    conditionals: list[keras.layers.Layer]
    prior: tfd.Distribution

    def __init__(self, conditionals: Sequence[keras.layers.Layer], prior: tfd.Distribution, **kwargs: Any) -> None:
        super().__init__(**_without_autocast(kwargs))
        self.conditionals = _checked_layers("conditionals", conditionals)
        self.prior = prior

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "conditionals": _serialized(self.conditionals)}
        return {**config, "prior": keras.saving.serialize_keras_object(self.prior)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GenerativeNetwork":
        """The inverse of `get_config`."""
        prior = keras.saving.deserialize_keras_object(config["prior"])
        network = cls(**{**_deserialized(config, "conditionals"), "prior": prior})
        return layers.frozen_as_configured(network, config)

    def build(self, z_shape: Sequence[tuple]) -> None:
        """Does nothing: the layers are built when they are called."""

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
        return self.decode(self.sample_latents(epsilon)[0])

    def sample_latents(self, epsilon: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the drawn z_1, ..., z_L of `sample`, L tensors [..., d_l]."""
        z = [_pushed_forward(epsilon[-1], self.prior)]
        for layer, epsilon_l in zip(self.conditionals[:0:-1], epsilon[-2::-1], strict=True):
            z.append(_pushed_forward(epsilon_l, layer(z[-1])))
        return z[::-1]


def _pushed_forward(epsilon, distribution):
    """The sample of a distribution that standard normal epsilon becomes."""
    if not isinstance(distribution, tfd.Distribution):
        kind = type(distribution).__name__
        raise ValueError(f"A stochastic layer returned a {kind}, but must return a tfp distribution with a bijector.")
    return distribution.bijector.forward(tf.cast(epsilon, distribution.dtype))


def _without_autocast(kwargs):
    """Under a mixed precision policy Keras would round x, epsilon and z, which only the layers inside may do."""
    return {"autocast": False, **kwargs}


def _checked_layers(argument, stochastic_layers):
    """Returns the layers as a list, and raises a ValueError if one of them does not tell its size."""
    found = list(stochastic_layers)
    for i, layer in enumerate(found):
        if not callable(layer) or not isinstance(getattr(layer, "units", None), Integral):
            raise ValueError(
                f"{argument}[{i}] is {layer!r}, but must be a keras.layers.Layer that returns a distribution and has "
                "an attribute `units`, the size of its vectors."
            )
    if not found:
        raise ValueError(f"{argument} is empty, but must have at least one layer.")
    return found


def _serialized(stochastic_layers):
    return [layers.serialized(layer) for layer in stochastic_layers]


def _deserialized(config, name):
    """The config with the layers under a name in place of their configs."""
    return {**config, name: [keras.saving.deserialize_keras_object(layer) for layer in config[name]]}


def paper_networks(
    event_size: int,
    latent_dims: Sequence[int] = (50,),
    hidden_dims: Sequence[Sequence[int]] | None = None,
    inference: str = "bottom_up",
    output_bias: np.ndarray | None = None,
    seed: int = 0,
    likelihood: str | Callable[..., keras.layers.Layer] = "bernoulli",
    input_layer: keras.layers.Layer | None = None,
    **layer_kwargs: Any,
) -> tuple[BottomUpInference | LadderInference, GenerativeNetwork]:
    """Builds the paper's networks for any number of stochastic layers [1, section 5], or those of the Ladder VAE [2].

    Args:
      event_size: the number of values in x, such as pixels.
      latent_dims: the sizes of z_1, ..., z_L.
      hidden_dims: for each stochastic layer, the widths of the hidden layers below it; the generative network
        mirrors them. None means the paper's, `paper.hidden_dims`.
      inference: "bottom_up", or "ladder" for the Ladder VAE; a key of `INFERENCE`.
      output_bias: initial logits of Bernoulli pixels, [event_size], or None for zeros.
      seed: seed of the initial weights.
      likelihood: p(x | z_1): a key of `layers.LIKELIHOODS`, or a function that returns the layer and takes the
        arguments of `layers.StochasticLayer`, such as `functools.partial(layers.GaussianLikelihoodLayer,
        moments=...)`.
      input_layer: what x passes through before the inference network's hidden layers, such as
        `layers.Preprocessing`, or None.
      **layer_kwargs: `activation`, `batch_norm` and `dtype` of the layers, see `layers.StochasticLayer`.

    Returns:
      An inference network and a `GenerativeNetwork`.

    Raises:
      ValueError: the name is unknown, or the sizes do not describe the same stochastic layers.
    """
    if inference not in INFERENCE:
        raise ValueError(f"inference is {inference!r}, but must be one of {', '.join(INFERENCE)}.")
    hidden_dims = _checked_hidden_dims(latent_dims, hidden_dims)
    build_decoder = functools.partial(_likelihood(likelihood, output_bias), event_size)
    upward, decoder, between = _stochastic_layers(
        build_decoder, latent_dims, hidden_dims, seed, input_layer, layer_kwargs
    )
    prior = layers.standard_normal(latent_dims[-1], dtype=layers.density_dtype(decoder.variable_dtype))
    dtype = decoder.dtype_policy
    generative = GenerativeNetwork([decoder, *between], prior, name="generative", dtype=dtype)
    return INFERENCE[inference](upward, between, name="inference", dtype=dtype), generative


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


def _likelihood(likelihood, output_bias):
    """The function that builds p(x | z_1)."""
    if output_bias is not None:
        return functools.partial(layers.BernoulliLayer, output_bias=output_bias)
    if not isinstance(likelihood, str):
        return likelihood
    if likelihood not in layers.LIKELIHOODS:
        raise ValueError(f"likelihood is {likelihood!r}, but must be one of {', '.join(layers.LIKELIHOODS)}.")
    return layers.LIKELIHOODS[likelihood]


def _are_positive_integers(values):
    return isinstance(values, Sequence) and all(isinstance(value, Integral) and value > 0 for value in values)


def _stochastic_layers(build_decoder, latent_dims, hidden_dims, seed, input_layer, layer_kwargs):
    """Returns the layers of q(z_l | ...), of p(x | z_1), and of p(z_1 | z_2), ..., p(z_{L-1} | z_L)."""
    seeds = np.random.SeedSequence(seed).generate_state(2 * len(latent_dims)).tolist()
    upward = [
        layers.GaussianLayer(
            units,
            hidden,
            seed=seeds.pop(),
            name=f"q_z{i + 1}",
            input_layer=None if i else input_layer,
            **layer_kwargs,
        )
        for i, (units, hidden) in enumerate(zip(latent_dims, hidden_dims, strict=True))
    ]
    decoder = build_decoder(hidden_dims[0][::-1], seed=seeds.pop(), name="p_x", **layer_kwargs)
    between = [
        layers.GaussianLayer(units, hidden[::-1], seed=seeds.pop(), name=f"p_z{i + 1}", **layer_kwargs)
        for i, (units, hidden) in enumerate(zip(latent_dims[:-1], hidden_dims[1:], strict=True))
    ]
    return upward, decoder, between


# Name -> a function that builds the inference network from the layers of q(z_l | ...) and those of p(z_l | z_{l+1}).
INFERENCE: dict[str, Callable[..., BottomUpInference | LadderInference]] = {
    "bottom_up": lambda upward, between, **kwargs: BottomUpInference(upward, **kwargs),
    "ladder": LadderInference,
}
