"""A model without structure to compare log p(x) with: independent values.

#### References

[1]: Jie Ren et al. Likelihood Ratios for Out-of-Distribution Detection. arXiv:1906.02845.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from iwae_tf import layers, models

_NUM_DRAWS = 5000
_ROWS_PER_CALL = 1000


def log_likelihood_of_independent_values(
    model: models.ImportanceWeightedAutoencoder,
    x: np.ndarray,
    event_shape: Sequence[int],
    likelihood: Callable[..., layers.LikelihoodLayer],
) -> np.ndarray:
    """Returns log p_0(x) of each row, where all values are independent.

    The values of a table have the means and variances that they have in the model. All pixels of images have one
    distribution, so log p(x) - log p_0(x) does not favour images with little ink, as log p(x) does [1].

    Args:
      model: the model, from which the moments are taken by drawing.
      x: float array [num_rows, event].
      event_shape: the shape of an image, or (number of columns,).
      likelihood: builds p(x | z_1), with the arguments of `layers.LikelihoodLayer` and `moments`.

    Returns:
      Nats, float64 [num_rows].
    """
    drawn = model.draw(_NUM_DRAWS).numpy().astype(np.float64)
    mean, variance = drawn.mean(axis=0), drawn.var(axis=0)
    if len(event_shape) > 1:
        mean, variance = np.full_like(mean, drawn.mean()), np.full_like(mean, drawn.var())
    layer = likelihood(model.event_size, [], seed=0, moments=layers.Moments(mean, variance))
    distribution = layer(tf.zeros([1, 1]))  # At zero only the bias counts, which has these moments.
    starts = range(0, len(x), _ROWS_PER_CALL)
    parts = [distribution.log_prob(tf.constant(x[i : i + _ROWS_PER_CALL])) for i in starts]
    return np.concatenate(parts).astype(np.float64)
