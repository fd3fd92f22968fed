"""Streaming estimates of log p(x) by importance sampling: L_5000, and L_k for smaller k from the same samples.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import contextlib
import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from iwae_tf import importance, models, noise
from iwae_tf.evaluation import pareto
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.runtime import distribute, parallel, signals


def evaluate_images(
    model: models.ImportanceWeightedAutoencoder,
    images: np.ndarray,
    num_samples: int,
    seed: int = 0,
    num_k_hats: int = 0,
    report: Callable[[Estimates], None] | None = None,
    begun: Estimates | None = None,
) -> Estimates:
    """Estimates log p(x) of every image with `num_samples` importance samples.

    Args:
      model: the model; under a `tf.distribute` strategy every worker calls this, and each measures a part.
      images: float array [num_images, event], binary for Bernoulli pixels.
      num_samples: importance samples per image.
      seed: seed of the samples.
      num_k_hats: the number of images, the first ones, whose k-hat is measured.
      report: called every few images with the `Estimates` of the images that are finished, the first ones.
      begun: the `Estimates` of the first images from an interrupted evaluation with the same arguments.

    Returns:
      `Estimates`, the same in all workers.

    Raises:
      signals.Interrupted: a signal asked to stop; the last report has what is finished.
    """
    workers = distribute.Workers(model.distribute_strategy)
    estimates = begun or Estimates.zeros(num_samples, model.num_samples)
    # Whole batches only, so that every batch is the same as without an interruption.
    estimates = estimates.first(len(estimates) // importance.IMAGES_PER_CALL * importance.IMAGES_PER_CALL)
    measure = _Measure(model, images, estimates, noise.key(seed, "evaluation"), num_k_hats)
    own_calls = importance.starts(images, len(estimates) // importance.IMAGES_PER_CALL + workers.index, workers.count)
    with contextlib.closing(parallel.results(measure, own_calls)) as measured:
        while len(estimates) < len(images):
            size = min(workers.count * importance.IMAGES_PER_CALL, len(images) - len(estimates))
            arrays = {name: np.zeros([*array.shape[:-1], size]) for name, array in estimates.arrays().items()}
            own = workers.index * importance.IMAGES_PER_CALL
            if own < size:
                for name, values in next(measured).items():
                    arrays[name][..., own : own + values.shape[-1]] = values
            estimates = estimates.followed_by(workers.sums(arrays))
            if report:
                report(estimates)
            signals.stop_for(workers.any(signals.received() or 0))
    return estimates


class _Measure:
    """Measures the images of one compiled call.

    Args:
      model: the model.
      images: all images, [num_images, event].
      estimates: `Estimates` with the numbers of samples to measure.
      key: int32 [2], see `noise.key`.
      num_k_hats: as for `evaluate_images`.
    """

    def __init__(self, model, images, estimates, key, num_k_hats):
        self._model, self._images, self._key, self._num_k_hats = model, images, key, num_k_hats
        self._ranges, self._num_drawn = tf.constant(estimates.ranges), max(estimates.counts)
        self._num_counts = len(estimates.counts)
        # One function with the log-weights that k-hat needs and one without.
        self._bounds = {with_k_hats: self._compiled(with_k_hats) for with_k_hats in (False, True)}

    def __call__(self, start):
        """Returns the arrays of `Estimates` for the images from `start` on."""
        size, batch = importance.full_batch(self._images, start)
        with_k_hats = start < self._num_k_hats
        image_ids = tf.range(start, start + len(batch))
        bounds, elbo, effective_sample_size, largest = self._bounds[with_k_hats](
            batch, image_ids, self._ranges, self._key
        )
        k_hats = pareto.k_hat(largest, self._num_drawn) if with_k_hats else np.zeros(len(batch))
        k_hats = np.where(image_ids < self._num_k_hats, k_hats, math.nan)
        arrays = {
            "bounds": importance.with_infinity(bounds[: self._num_counts]),
            "halves": importance.with_infinity(bounds[self._num_counts :]),
            "elbos": elbo,
            "effective_sample_sizes": effective_sample_size,
            "largest_weights": tf.exp(largest[:, 0]),
            "k_hats": k_hats,
        }
        return {name: np.asarray(array, np.float64)[..., :size] for name, array in arrays.items()}

    def _compiled(self, with_k_hats):
        """`importance_bounds`, which is compiled when it is first called."""
        num_largest = pareto.num_tail(self._num_drawn) if with_k_hats else 1
        blocks = importance.fastest_chunk_blocks(self._num_drawn)
        bounds = functools.partial(
            importance.importance_bounds, self._model, num_largest=num_largest, chunk_blocks=blocks
        )
        return tf.function(bounds, jit_compile=self._model.jit_compile)
