"""How heavy the tail of importance weights is: the shape k-hat of a generalised Pareto distribution.

With a k-hat below 0.5 the weights' variance is finite, up to 0.7 an estimate from thousands of samples is still of use,
and above it the average of the weights cannot be trusted, whatever its standard error says [1].

ArviZ computes it, which is an optional package: pip install 'iwae-tf[diagnostics]'.

#### References

[1]: Aki Vehtari, Daniel Simpson, Andrew Gelman, Yuling Yao, Jonah Gabry. Pareto Smoothed Importance Sampling.
  Journal of Machine Learning Research 25(72), 2024; arXiv:1507.02646.
"""

import math
import warnings

import numpy as np

from iwae_tf.errors import UserError

K_HAT_THRESHOLD = 0.7


def require_arviz():
    """Raises a UserError where ArviZ is not installed: before a long computation, not after it."""
    _arviz()


def num_tail(num_samples):
    """How many of the largest log-weights decide k-hat: the tail and the one at which it begins [1, section 2]."""
    return min(num_samples, math.ceil(min(num_samples / 5.0, 3.0 * math.sqrt(num_samples))) + 1)


def k_hat(largest_log_weights, num_samples):
    """Fits the tail of importance weights.

    Args:
      largest_log_weights: the `num_tail(num_samples)` largest log-weights of each image, [..., num_tail].
      num_samples: how many log-weights there were in all.

    Returns:
      k-hat, float64 [...]; inf where the tail has too few different weights for a fit.
    """
    largest = np.asarray(largest_log_weights, np.float64)
    if num_samples == 1:  # Nothing to fit, where ArviZ fails.
        return np.full(largest.shape[:-1], np.inf)
    # Those below the tail only count.
    others = np.repeat(largest.min(axis=-1, keepdims=True), num_samples - largest.shape[-1], axis=-1)
    _, shapes = _arviz().psislw(np.concatenate([others, largest], axis=-1))
    return np.asarray(shapes, np.float64)


def _arviz():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It announces its next version whenever it is imported.
            import arviz
    except ImportError as error:
        raise UserError(
            f"k-hat needs ArviZ ({error}): pip install 'iwae-tf[diagnostics]', or leave out --khat_images."
        ) from error
    return arviz
