"""The likelihoods p(x | z_1): stochastic layers over the values of x, with the initial parameters that data suggest.

#### References

[1]: Gabriel Loaiza-Ganem, John P. Cunningham. The continuous Bernoulli. arXiv:1907.06845.
[2]: Tim Salimans et al. PixelCNN++. arXiv:1701.05517.
[3]: Pierre-Alexandre Mattei, Jes Frellsen. MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
    arXiv:1812.02633.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf import products, supports
from iwae_tf.layers.convolutions import TransposedConvolutions
from iwae_tf.layers.stochastic import StochasticLayer, serialized
from iwae_tf.layers.values import (
    IndependentValues,
    PixelBernoulli,
    PixelContinuousBernoulli,
    PixelLogistic,
    StablePoisson,
)
from iwae_tf.products import PACKAGE

# Whether a scale is the same for every x, or an output of the network.
SCALES = ("feature", "sample")
# Scales are larger than this, relative to that of the data: a density has no maximum where a scale may go to zero.
_LEAST_SCALE = 1e-3
# Logarithms are cut off here, so that their exponentials are finite.
_LARGEST_LOG = 20.0
_LARGEST_LOG_MEAN = 40.0
# Initial degrees of freedom above 1.
_INITIAL_FREEDOM = 4.0


class Moments(NamedTuple):
    """Mean and variance of each value of x over the training data, float arrays [event]."""

    mean: np.ndarray
    variance: np.ndarray

    @property
    def stddev(self) -> np.ndarray:
        """The standard deviations, or 1 for constants, whose variance may be a rounding error."""
        return np.sqrt(np.where(self.variance > np.square(1e-7 * self.mean), self.variance, 1.0))


def output_bias_from_mean(mean_image: np.ndarray) -> np.ndarray:
    """Returns the logits of the mean training image, the initial output bias of the decoder.

    Args:
      mean_image: float array [event], the mean of the training split's grey values in [0, 1].

    Returns:
      logit(clip(mean_image, 0.001, 0.999)), float32 [event].
    """
    mean = np.clip(np.asarray(mean_image, np.float64), 0.001, 0.999)
    return (np.log(mean) - np.log1p(-mean)).astype(np.float32)


class LikelihoodLayer(StochasticLayer):
    """The base class of the likelihoods.

    Args:
      units: the number of values of x.
      hidden_dims: as for `StochasticLayer`.
      seed: as for `StochasticLayer`.
      missing_values: whether values of x may be NaN. The likelihood is then that of the others [3].
      upsampling: what the output of the hidden layers passes through, with the heads' `head(name, bias)`, such as
        `TransposedConvolutions`; None means dense heads.
      **kwargs: further arguments of `StochasticLayer`.

    Attributes:
      support: the values that x may have.
    """

    support: supports.Support = supports.REAL

    def __init__(
        self,
        units: int,
        hidden_dims: Sequence[int],
        seed: int,
        missing_values: bool = False,
        upsampling: TransposedConvolutions | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.missing_values, self.upsampling = missing_values, upsampling

    def get_config(self) -> dict[str, Any]:
        upsampling = self.upsampling and serialized(self.upsampling)
        return {**super().get_config(), "missing_values": self.missing_values, "upsampling": upsampling}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StochasticLayer":
        """The inverse of `get_config`."""
        upsampling = keras.saving.deserialize_keras_object(config.get("upsampling"))
        return super().from_config({**config, "upsampling": upsampling})

    def features(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns what the heads get, [..., width]."""
        features = super().features(inputs)
        return features if self.upsampling is None else self.upsampling(features)

    def _output(self, name, bias=None):
        """A head with an initial bias [units]; None means zeros."""
        if self.upsampling is not None:
            return self.upsampling.head(name, bias)
        initializer = "zeros" if bias is None else keras.initializers.Constant(np.asarray(bias, np.float32))
        return self._dense(self.units, bias_initializer=initializer, name=name)

    def _scale(self, scale, name, initial):
        """The logarithm of a scale: a weight, or a head."""
        if scale not in SCALES:
            raise ValueError(f"scale is {scale!r}, but must be one of {', '.join(SCALES)}.")
        return self._constant(name, initial, trainable=True) if scale == "feature" else self._output(name, initial)

    def _constant(self, name, values, trainable=False):
        """A weight [units] that does not depend on z."""
        initializer = keras.initializers.Constant(np.broadcast_to(np.asarray(values, np.float32), [self.units]))
        return self.add_weight([self.units], initializer, trainable=trainable, name=name, autocast=False)


@keras.saving.register_keras_serializable(PACKAGE)
class BernoulliLayer(LikelihoodLayer):
    """Independent Bernoulli pixels.

    Args:
      output_bias: initial logits of the pixels, [units], such as `output_bias_from_mean` returns; None means zeros.
      others: as for `LikelihoodLayer`.
    """

    support = supports.BINARY

    def __init__(
        self,
        units: int,
        hidden_dims: Sequence[int],
        seed: int,
        output_bias: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.output_bias = None if output_bias is None else np.asarray(output_bias, np.float32)
        self.logits = self._output("logits", self.output_bias)

    @property
    def heads(self) -> list[keras.layers.Layer]:
        return [self.logits]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "output_bias": None if self.output_bias is None else self.output_bias.tolist()}

    def distribution(self, features: tf.Tensor) -> PixelBernoulli:
        """Maps the last hidden layer's output [..., width] to a `PixelBernoulli`."""
        factors = self.logits.factors(features) if isinstance(self.logits, products.Dense) else None
        return PixelBernoulli(self.logits(features), self.missing_values, factors)


class _WithMoments(LikelihoodLayer):
    """A likelihood whose initial parameters follow from the moments of the training data."""

    def __init__(
        self, units: int, hidden_dims: Sequence[int], seed: int, moments: Moments | None = None, **kwargs: Any
    ) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.moments = None if moments is None else Moments(*(np.asarray(m, np.float64) for m in moments))

    def get_config(self) -> dict[str, Any]:
        moments = None if self.moments is None else [moment.tolist() for moment in self.moments]
        return {**super().get_config(), "moments": moments}


@keras.saving.register_keras_serializable(PACKAGE)
class ContinuousBernoulliLayer(_WithMoments):
    """Independent continuous Bernoulli distributions [1], for grey values in [0, 1].

    Args:
      moments: `Moments` of the training data, for the initial output bias; None means zeros.
      others: as for `LikelihoodLayer`.
    """

    support = supports.UNIT_INTERVAL

    def __init__(self, units: int, hidden_dims: Sequence[int], seed: int, **kwargs: Any) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.logits = self._output("logits", None if self.moments is None else _logits_of_mean(self.moments.mean))

    @property
    def heads(self) -> list[keras.layers.Layer]:
        return [self.logits]

    def distribution(self, features: tf.Tensor) -> IndependentValues:
        """Maps the last hidden layer's output [..., width] to the distribution of x."""
        return IndependentValues(PixelContinuousBernoulli(logits=self.logits(features)), self.missing_values)


def _logits_of_mean(mean):
    """The logits l of continuous Bernoulli distributions whose mean, 1 / (1 - exp(-l)) - 1 / l, is given."""
    mean = np.clip(mean, 0.001, 0.999)
    low, high = np.full_like(mean, -2000.0), np.full_like(mean, 2000.0)
    for _ in range(60):  # The mean grows with the logits: bisection.
        middle = 0.5 * (low + high)
        size = np.maximum(np.abs(middle), 1e-6)
        value = 0.5 + np.sign(middle) * (0.5 / np.tanh(0.5 * size) - 1.0 / size)
        low, high = np.where(value < mean, middle, low), np.where(value < mean, high, middle)
    return 0.5 * (low + high)


class LocationScaleLayer(_WithMoments):
    """A likelihood with a location and a scale, in the units of the data.

    The networks work with standardised values: location = shift + spread * output, and the same for the scale.

    Args:
      moments: `Moments` of the training data; None means zero mean and unit variance.
      standardize: whether shift and spread are the mean and the standard deviation of the data, rather than 0 and 1.
      scale: "feature" for a scale of each value that is the same for every x, or "sample" for an output of the network.
      others: as for `LikelihoodLayer`.
    """

    def __init__(
        self,
        units: int,
        hidden_dims: Sequence[int],
        seed: int,
        standardize: bool = True,
        scale: str = "feature",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.standardize, self.scale = standardize, scale
        moments = self.moments or Moments(np.zeros(units), np.ones(units))
        shift, spread = self._units(moments)
        self.shift, self.spread = self._constant("shift", shift), self._constant("spread", spread)
        relative = self._initial_scale(moments) / spread - _LEAST_SCALE
        bias = np.log(np.maximum(relative, _LEAST_SCALE))
        self.loc = self._output("loc", (moments.mean - shift) / spread)
        self.log_scale = self._scale(scale, "log_scale", bias)

    def _units(self, moments):
        """What the networks' location is relative to, and in what unit."""
        return (moments.mean, moments.stddev) if self.standardize else (np.zeros(self.units), np.ones(self.units))

    def _initial_scale(self, moments):
        """The scale of the distribution with these moments."""
        return moments.stddev

    @property
    def heads(self) -> list[keras.layers.Layer]:
        return [self.loc, *([self.log_scale] if self.scale == "sample" else [])]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "standardize": self.standardize, "scale": self.scale}

    def distribution(self, features: tf.Tensor) -> IndependentValues:
        """Maps the last hidden layer's output [..., width] to the distribution of x."""
        loc = self.shift + self.spread * self.loc(features)
        log_scale = self.log_scale if self.scale == "feature" else self.log_scale(features)
        scale = self.spread * (_LEAST_SCALE + tf.exp(tf.minimum(log_scale, _LARGEST_LOG)))
        return IndependentValues(self._values(loc, scale), self.missing_values, placeholder=lambda: loc)

    def _values(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        """The distribution of each value."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(PACKAGE)
class GaussianLikelihoodLayer(LocationScaleLayer):
    """Independent Gaussians, for real numbers; with a linear network and one layer, this is factor analysis."""

    def _values(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        return tfd.Normal(loc, scale)


@keras.saving.register_keras_serializable(PACKAGE)
class StudentTLayer(LocationScaleLayer):
    """Independent Student t distributions, for real numbers with outliers.

    Each value has degrees of freedom of its own, above 1, which are learned.
    """

    def __init__(self, units: int, hidden_dims: Sequence[int], seed: int, **kwargs: Any) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        # The inverse of softplus.
        self.raw_freedom = self._constant("raw_freedom", math.log(math.expm1(_INITIAL_FREEDOM)), trainable=True)

    def _initial_scale(self, moments):
        freedom = 1.0 + _INITIAL_FREEDOM
        return moments.stddev * math.sqrt((freedom - 2.0) / freedom)

    def _values(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        return tfd.StudentT(1.0 + tf.nn.softplus(self.raw_freedom), loc, scale)


@keras.saving.register_keras_serializable(PACKAGE)
class DiscretizedLogisticLayer(LocationScaleLayer):
    """Independent discretized logistic distributions [2], for pixels with the levels 0, ..., num_levels - 1.

    Args:
      num_levels: the number of levels.
      scale: as for `LocationScaleLayer`; by default "sample".
      others: as for `LocationScaleLayer`; `standardize` has no effect.
    """

    def __init__(
        self,
        units: int,
        hidden_dims: Sequence[int],
        seed: int,
        num_levels: int = 256,
        scale: str = "sample",
        **kwargs: Any,
    ) -> None:
        self.num_levels, self.support = num_levels, supports.levels(num_levels)
        super().__init__(units, hidden_dims, seed, scale=scale, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_levels": self.num_levels}

    def _units(self, moments):
        half = 0.5 * (self.num_levels - 1.0)
        return np.full(self.units, half), np.full(self.units, half)

    def _initial_scale(self, moments):
        return moments.stddev * math.sqrt(3.0) / math.pi

    def _values(self, loc: tf.Tensor, scale: tf.Tensor) -> tfd.Distribution:
        return PixelLogistic.of_levels(loc, scale, self.num_levels)


@keras.saving.register_keras_serializable(PACKAGE)
class PoissonLayer(_WithMoments):
    """Independent Poisson distributions, for counts.

    Args:
      moments: `Moments` of the training data, for the initial output bias; None means zeros.
      others: as for `LikelihoodLayer`.
    """

    support = supports.COUNTS

    def __init__(self, units: int, hidden_dims: Sequence[int], seed: int, **kwargs: Any) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.log_rate = self._output("log_rate", None if self.moments is None else _log_mean(self.moments))

    @property
    def heads(self) -> list[keras.layers.Layer]:
        return [self.log_rate]

    def distribution(self, features: tf.Tensor) -> IndependentValues:
        """Maps the last hidden layer's output [..., width] to the distribution of x."""
        log_rate = _within_limits(self.log_rate(features))
        return IndependentValues(StablePoisson(log_rate=log_rate), self.missing_values)


@keras.saving.register_keras_serializable(PACKAGE)
class NegativeBinomialLayer(_WithMoments):
    """Independent negative binomial distributions, for counts with variance mean + mean^2 / r.

    Args:
      moments: `Moments` of the training data, for the initial mean and r; None means one.
      scale: "feature" for an r of each value that is the same for every x, or "sample" for an output of the network.
      others: as for `LikelihoodLayer`.
    """

    support = supports.COUNTS

    def __init__(
        self, units: int, hidden_dims: Sequence[int], seed: int, scale: str = "feature", **kwargs: Any
    ) -> None:
        super().__init__(units, hidden_dims, seed, **kwargs)
        self.scale = scale
        log_mean, log_count = np.zeros(units), np.zeros(units)
        if self.moments is not None:
            log_mean = _log_mean(self.moments)
            excess = np.maximum(self.moments.variance - self.moments.mean, 1e-4)
            log_count = np.clip(2.0 * log_mean - np.log(excess), -4.0, 4.0)
        self.log_mean = self._output("log_mean", log_mean)
        self.log_count = self._scale(scale, "log_count", log_count)

    @property
    def heads(self) -> list[keras.layers.Layer]:
        return [self.log_mean, *([self.log_count] if self.scale == "sample" else [])]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}

    def distribution(self, features: tf.Tensor) -> IndependentValues:
        """Maps the last hidden layer's output [..., width] to the distribution of x."""
        log_count = self.log_count if self.scale == "feature" else self.log_count(features)
        log_mean, log_count = (
            _within_limits(self.log_mean(features)),
            _within_limits(log_count, 0.25 * _LARGEST_LOG_MEAN),
        )
        values = tfd.NegativeBinomial(total_count=tf.exp(log_count), logits=log_mean - log_count)
        return IndependentValues(values, self.missing_values)


def _log_mean(moments):
    return np.log(np.maximum(moments.mean, 1e-3))


def _within_limits(logarithm, limit=_LARGEST_LOG_MEAN):
    return tf.clip_by_value(logarithm, -limit, limit)


# Name -> a function that builds p(x | z_1), with the arguments of `LikelihoodLayer` and `moments`.
def _bernoulli(units, hidden_dims, seed, moments=None, **kwargs):
    bias = None if moments is None else output_bias_from_mean(moments.mean)
    return BernoulliLayer(units, hidden_dims, seed, output_bias=bias, **kwargs)


LIKELIHOODS = {
    "bernoulli": _bernoulli,
    "continuous_bernoulli": ContinuousBernoulliLayer,
    "discretized_logistic": DiscretizedLogisticLayer,
    "gaussian": GaussianLikelihoodLayer,
    "student_t": StudentTLayer,
    "poisson": PoissonLayer,
    "negative_binomial": NegativeBinomialLayer,
}
