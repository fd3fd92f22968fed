"""Distributions of the values of x: TFP's, where those are slow or not exact in single precision written anew."""

import functools
import math
from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from iwae_tf import products

# A Bernoulli variable with these logits is 0 with probability 1, so its log-probability at 0 is exactly 0.
_LOGITS_OF_MISSING = -200.0


class IndependentValues(tfd.Independent):
    """Independent distributions over the last axis; values that are NaN are missing, and have no term in `log_prob`.

    Args:
      distribution: a distribution of batch shape [..., event].
      missing_values: whether values may be missing.
      placeholder: a function that returns possible values, in place of missing ones; by default zero.
    """

    def __init__(
        self,
        distribution: tfd.Distribution,
        missing_values: bool = False,
        placeholder: Callable[[], tf.Tensor | float] | None = None,
    ) -> None:
        super().__init__(distribution, reinterpreted_batch_ndims=1)
        self._missing_values = missing_values
        self._placeholder = placeholder or (lambda: 0.0)

    def _log_prob(self, x):
        if not self._missing_values:
            return tf.reduce_sum(self.distribution.log_prob(x), axis=-1)
        observed = tf.math.logical_not(tf.math.is_nan(x))
        # Two selections, as the gradient of a term that is not selected must be finite, too.
        possible = tf.where(observed, x, tf.stop_gradient(tf.cast(self._placeholder(), x.dtype)))
        terms = self.distribution.log_prob(possible)
        return tf.reduce_sum(tf.where(observed, terms, tf.zeros_like(terms)), axis=-1)


class PixelBernoulli(tfd.Independent):
    """Independent Bernoulli distributions over the last axis, for values in {0, 1}, with a faster `log_prob`.

    Args:
      logits: float tensor [..., event].
      missing_values: whether values may be NaN; these have no term in `log_prob`.
      factors: the `products.Factors` of the logits, if `log_prob` is faster from them.
    """

    def __init__(
        self, logits: tf.Tensor, missing_values: bool = False, factors: products.Factors | None = None
    ) -> None:
        # Whole numbers have no NaN.
        dtype = logits.dtype if missing_values else tf.int32
        super().__init__(tfd.Bernoulli(logits=logits, dtype=dtype), reinterpreted_batch_ndims=1)
        self._missing_values, self._factors = missing_values, factors

    def _log_prob(self, x):
        logits = self.distribution.logits
        x = tf.cast(x, logits.dtype)
        if self._factors is not None:
            return products.sum_bernoulli_log_prob_of_product(x, self._factors, self._observed)
        return products.sum_bernoulli_log_prob(*self._observed(x, logits))

    def _observed(self, x, logits):
        """x and logits, those of missing values such that their term is zero."""
        if not self._missing_values:
            return x, logits
        observed = tf.math.logical_not(tf.math.is_nan(x))
        logits = tf.where(observed, logits, tf.constant(_LOGITS_OF_MISSING, logits.dtype))
        return tf.where(observed, x, tf.zeros_like(x)), logits


class PixelContinuousBernoulli(tfd.ContinuousBernoulli):
    """The continuous Bernoulli distribution of Loaiza-Ganem and Cunningham (arXiv:1907.06845), for values in [0, 1].

    With logits l its density is l exp(l x) / (exp(l) - 1). TFP's version takes the logarithm of the normalising
    constant from the probabilities, which single precision rounds to 0 and 1.
    """

    def _log_prob(self, x):
        logits = self.logits
        size = tf.abs(logits)
        is_small = size < 0.1
        safe = tf.where(is_small, tf.ones_like(size), size)
        large = tf.math.log(-safe / tf.math.expm1(-safe)) - 0.5 * safe
        square = tf.square(logits)
        # log(l / (2 sinh(l / 2))), by its series at zero.
        log_normalizer = tf.where(is_small, square * (square / 2880.0 - 1.0 / 24.0), large)
        return logits * (x - 0.5) + log_normalizer


class PixelLogistic(tfd.QuantizedDistribution):
    """The discretized logistic distribution of Salimans et al. (arXiv:1701.05517), for levels 0, ..., num_levels - 1.

    The probability of a level is the mass of a logistic distribution within one half of it; the lowest and the highest
    level have all mass below and above.

    The arguments are those of TFP's class, see `of_levels`.
    """

    @classmethod
    def of_levels(cls, loc: tf.Tensor, scale: tf.Tensor, num_levels: int) -> "PixelLogistic":
        """Returns the distribution of `num_levels` levels with a location and a scale in levels."""
        # TFP's intervals end at the levels.
        return cls(tfd.Logistic(loc - 0.5, scale), low=0.0, high=num_levels - 1.0)

    def _log_prob(self, x):
        """log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)), without cancellation.

        Here a and b are the ends of the interval, and b - a = 1 / scale.
        """
        loc, scale = self.distribution.loc, self.distribution.scale
        lower, upper = ((x + end - loc) / scale for end in (-1.0, 0.0))
        above_lower = tf.where(x > self.low, -tf.nn.softplus(lower), tf.zeros_like(lower))
        below_upper = tf.where(x < self.high, -tf.nn.softplus(-upper), tf.zeros_like(upper))
        within = tf.math.log(-tf.math.expm1(-1.0 / scale))
        is_within = (x > self.low) & (x < self.high)
        return above_lower + below_upper + tf.where(is_within, within, tf.zeros_like(within))

    def _mean(self):
        """The integral of P(X > t) over the levels, which differs from the mean by less than half a level."""
        loc, scale = self.distribution.loc + 0.5, self.distribution.scale
        return scale * (tf.nn.softplus((loc - self.low) / scale) - tf.nn.softplus((loc - self.high) / scale))


class StablePoisson(tfd.Poisson):
    """A Poisson distribution whose `log_prob` is exact for large counts in single precision.

    x log(rate) - rate - log(x!) are numbers like 10^7 for counts like 10^6, and their sum one like -10. For counts from
    10 on, Stirling's formula takes the large parts out before they are rounded.
    """

    def _log_prob(self, x):
        log_rate = self.log_rate
        is_large = x >= 10.0
        small = tf.where(is_large, tf.zeros_like(x), x)
        direct = small * log_rate - tf.exp(log_rate) - tf.math.lgamma(small + 1.0)
        large = tf.where(is_large, x, 10.0 * tf.ones_like(x))
        log_ratio = log_rate - tf.math.log(large)
        stirling = 0.5 * tf.math.log(2.0 * math.pi * large) + tfp.math.log_gamma_correction(large)
        return tf.where(is_large, large * _log_minus_linear(log_ratio) - stirling, direct)


def _log_minus_linear(t):
    """t - (exp(t) - 1), by its series near zero."""
    is_small = tf.abs(t) < 0.1
    series = functools.reduce(lambda value, n: (value + 1.0) * t / n, range(7, 2, -1), tf.zeros_like(t))
    safe = tf.where(is_small, tf.ones_like(t), t)
    return tf.where(is_small, -0.5 * tf.square(t) * (series + 1.0), safe - tf.math.expm1(safe))
