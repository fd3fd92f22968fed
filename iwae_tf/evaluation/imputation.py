"""Replaces missing values by what a trained model says of them.

#### References

[1]: Pierre-Alexandre Mattei, Jes Frellsen. MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets.
    arXiv:1812.02633.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import importance, models, noise
from iwae_tf.runtime import parallel


class Imputation(NamedTuple):
    """Rows without missing values.

    Attributes:
      x: the rows with E[missing | observed] in place of missing values, float32 [num_rows, event]; rows whose observed
        values have no probability keep their gaps.
      draws: the rows with draws of the missing values, float32 [num_draws, num_rows, event].
      effective_sample_size: 1 / sum_i w~_i^2 of each row, float64 [num_rows]; NaN for rows without missing values.
    """

    x: np.ndarray
    draws: np.ndarray
    effective_sample_size: np.ndarray


def impute(
    model: models.ImportanceWeightedAutoencoder,
    x: np.ndarray,
    num_samples: int,
    num_draws: int = 0,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
) -> Imputation:
    """Imputes missing values by self-normalised importance sampling [1, section 3].

    The draws are by sampling importance resampling: z by its weight, then x from p(x | z).

    Args:
      model: the model; its likelihood accepts missing values.
      x: float array [num_rows, event], NaN where a value is missing.
      num_samples: importance samples for each row; memory does not depend on it.
      num_draws: draws of each missing value.
      seed: seed of the samples; those of a row depend on its place.
      report: called with the number of rows that are finished, of those with missing values.

    Returns:
      An `Imputation`.
    """
    is_missing = np.isnan(x)
    rows = np.flatnonzero(is_missing.any(axis=1))
    incomplete = x[rows]
    means, sizes = x.copy(), np.full(len(x), np.nan)
    draws = np.repeat(x[np.newaxis], num_draws, axis=0)
    compiled = tf.function(
        functools.partial(importance.posterior_means, model, num_draws=max(num_draws, 1)), jit_compile=model.jit_compile
    )
    key = noise.key(seed, "imputation")

    def posterior_means(start):
        size, batch = importance.full_batch(incomplete, start)
        places = rows[start : start + size]
        ids = np.resize(places, len(batch)).astype(np.int32)
        return start, places, compiled(batch, ids, tf.constant(num_samples), key)

    for start, places, found in parallel.results(posterior_means, importance.starts(incomplete)):
        size = len(places)
        sizes[places] = found.effective_sample_size[:size]
        # Without any weight there is nothing to say: such rows keep their gaps.
        chosen = is_missing[places] & (sizes[places] > 0.0)[:, np.newaxis]
        means[places] = np.where(chosen, found.x[:size], x[places])
        if num_draws:
            values = tf.cast(model.decode(found.z_1).sample(seed=noise.fold_in(key, -1 - start)), tf.float32)
            draws[:, places] = np.where(chosen, values.numpy()[:, :size], x[places])
        if report:
            report(start + size)
    return Imputation(means, draws, sizes)
