"""The tail of the importance weights: k-hat, the shape of a generalised Pareto distribution fitted to it.

With k-hat below 0.5 the variance of the weights is finite. Up to 0.7 an estimate from thousands of samples is still
useful. Above 0.7 the mean of the weights is not reliable, whatever its standard error [1].

This needs the optional package ArviZ.

#### References

[1]: Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry. Pareto Smoothed Importance Sampling.
  Journal of Machine Learning Research 25(72), 2024; arXiv:1507.02646.
"""

import functools
import math
import warnings

import numpy as np

from iwae_tf.errors import UserError

K_HAT_THRESHOLD = 0.7


def require_arviz() -> None:
    """Raises a UserError if ArviZ is not installed; call it before a long computation."""
    _arviz()


def num_tail(num_samples: int) -> int:
    """Returns how many of the largest log-weights determine k-hat: the tail and its threshold [1, section 2]."""
    return min(num_samples, math.ceil(min(num_samples / 5.0, 3.0 * math.sqrt(num_samples))) + 1)


def k_hat(largest_log_weights: np.ndarray, num_samples: int) -> np.ndarray:
    """Fits the tail of the importance weights of each image.

    Args:
      largest_log_weights: the `num_tail(num_samples)` largest log-weights of each image, [..., num_tail].
      num_samples: the total number of log-weights per image.

    Returns:
      k-hat, float64 [...]; inf where the tail has too few different weights for a fit.

    Raises:
      UserError: ArviZ is not installed.
    """
    largest = np.asarray(largest_log_weights, np.float64)
    if num_samples == 1:  # There is nothing to fit, and ArviZ fails.
        return np.full(largest.shape[:-1], np.inf)
    # Of the weights below the tail, only the number matters.
    others = np.repeat(largest.min(axis=-1, keepdims=True), num_samples - largest.shape[-1], axis=-1)
    _, shapes = _arviz().psislw(np.concatenate([others, largest], axis=-1))
    return np.asarray(shapes, np.float64)


@functools.cache
def _arviz():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # On import ArviZ announces its next version.
            import arviz
    except ImportError as error:
        raise UserError(f"k-hat needs ArviZ ({error}); install it with `pip install 'arviz>=0.23.4,<1'`.") from error
    return arviz
