"""Streaming estimates of log p(x) by importance sampling: L_5000, and L_k for smaller k from the same samples.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import models, noise
from iwae_tf.evaluation import batches, pareto
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.runtime import distribute, signals

# The noise is keyed by image and block of samples, so this number is part of the definition of the random numbers.
BLOCK = 500
# Blocks that pass through the networks at once. 1,000 rows are fastest on a CPU: its cache holds the activations.
_CHUNK_BLOCKS = 2


class ImageBounds(NamedTuple):
    """Estimates for each image, in nats unless stated otherwise.

    Attributes:
      bounds: the bound of each requested range of samples, [num_ranges, batch].
      elbo: the mean log-weight of all samples, [batch].
      effective_sample_size: 1 / sum_i w~_i^2 of all samples, a number from 1 to their number, [batch].
      largest: the largest normalized log-weights log w~_i of all samples, descending, [batch, num_largest].
    """

    bounds: tf.Tensor
    elbo: tf.Tensor
    effective_sample_size: tf.Tensor
    largest: tf.Tensor


def importance_bounds(
    model: models.ImportanceWeightedAutoencoder,
    x: tf.Tensor,
    image_ids: tf.Tensor,
    ranges: tf.Tensor | Sequence[Sequence[int]],
    key: tf.Tensor,
    num_largest: int = 1,
    chunk_blocks: int = _CHUNK_BLOCKS,
) -> ImageBounds:
    """Estimates bounds of each image from several parts of one stream of samples.

    The log-weights are drawn in chunks and added to running logsumexps, so memory depends neither on the number of
    samples nor on the number of images. L_k for several k uses the ranges 0 ... k.

    Args:
      model: has `draw_epsilon(num_samples, batch_size, key)` and `log_weight_terms(x, epsilon)`.
      x: float tensor [batch, event].
      image_ids: int32 [batch]; with `key` they determine the noise, so the value of an image does not depend on its
        batch.
      ranges: int32 [num_ranges, 2], the first sample of each bound and the one after its last; samples up to the
        largest are drawn. L_k with k = 5,000 is the paper's estimate of log p(x).
      key: int32 [2], see `noise.key`.
      num_largest: the number of largest log-weights to return, at most all that are drawn.
      chunk_blocks: the number of blocks of `BLOCK` samples in a chunk; it changes the speed, not the values.

    Returns:
      An `ImageBounds`.
    """
    ranges = tf.convert_to_tensor(ranges, tf.int32)
    batch = tf.shape(x)[0]
    shapes: tuple = (ranges.shape[:1], [], [], [num_largest])
    columns = [tf.TensorArray(tf.float32, batch, element_shape=shape) for shape in shapes]

    def one_image(i, *columns):
        image_key = noise.fold_in(key, image_ids[i])
        values = _stream(model, tf.gather(x, [i]), ranges, image_key, num_largest, chunk_blocks)
        return i + 1, *(column.write(i, value) for column, value in zip(columns, values, strict=True))

    _, *columns = tf.while_loop(lambda i, *_: i < batch, one_image, [0, *columns])
    bounds, *others = (column.stack() for column in columns)
    return ImageBounds(tf.transpose(bounds), *others)


def _stream(model, x, ranges, image_key, num_largest, chunk_blocks):
    """The `ImageBounds` of one image, [num_ranges], two scalars and [num_largest]."""
    total = tf.reduce_max(ranges)

    def one_chunk(first_block, log_sums, log_sum, log_sum_of_squares, largest, weight_sum):
        blocks = [model.draw_epsilon(BLOCK, 1, noise.fold_in(image_key, first_block + i)) for i in range(chunk_blocks)]
        epsilon = [tf.concat(layer, axis=0) for layer in zip(*blocks, strict=True)]
        log_weights = model.log_weight_terms(x, epsilon).log_weights[:, 0]
        index = first_block * BLOCK + tf.range(chunk_blocks * BLOCK)
        in_ranges = (index >= ranges[:, :1]) & (index < ranges[:, 1:])
        drawn = tf.where(index < total, log_weights, -math.inf)
        return (
            first_block + chunk_blocks,
            _add(log_sums, tf.where(in_ranges, log_weights, -math.inf)),
            _add(log_sum, drawn),
            _add(log_sum_of_squares, 2.0 * drawn),
            _largest(tf.concat([largest, drawn], axis=0), num_largest),
            weight_sum + tf.reduce_sum(tf.where(index < total, log_weights, 0.0)),
        )

    start = [0, tf.fill([tf.shape(ranges)[0]], -math.inf), -math.inf, -math.inf, tf.fill([num_largest], -math.inf), 0.0]
    _, log_sums, log_sum, log_sum_of_squares, largest, weight_sum = tf.while_loop(
        lambda block, *_: block * BLOCK < total, one_chunk, start
    )
    return ImageBounds(
        log_sums - tf.math.log(tf.cast(ranges[:, 1] - ranges[:, 0], tf.float32)),
        weight_sum / tf.cast(total, tf.float32),
        tf.exp(2.0 * log_sum - log_sum_of_squares),
        largest - log_sum,
    )


def _largest(log_weights, count):
    """The largest of log_weights [n], descending, [count]; more than one needs a sort, which is slower."""
    if count == 1:
        return tf.reduce_max(log_weights, keepdims=True)
    return tf.math.top_k(log_weights, count).values


def _add(log_sum, log_weights):
    """log(exp(log_sum) + sum exp(log_weights)) over the last axis of log_weights."""
    return tf.reduce_logsumexp([log_sum, tf.reduce_logsumexp(log_weights, axis=-1)], axis=0)


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
    estimates = estimates.first(len(estimates) // batches.IMAGES_PER_CALL * batches.IMAGES_PER_CALL)
    measure = _Measure(model, estimates, noise.key(seed, "evaluation"), num_k_hats)
    while len(estimates) < len(images):
        start = len(estimates)
        size = min(workers.count * batches.IMAGES_PER_CALL, len(images) - start)
        arrays = {name: np.zeros([*array.shape[:-1], size]) for name, array in estimates.arrays().items()}
        own = workers.index * batches.IMAGES_PER_CALL
        if own < size:
            for name, values in measure(images, start + own).items():
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
      estimates: `Estimates` with the numbers of samples to measure.
      key: int32 [2], see `noise.key`.
      num_k_hats: as for `evaluate_images`.
    """

    def __init__(self, model, estimates, key, num_k_hats):
        self._model, self._key, self._num_k_hats = model, key, num_k_hats
        self._ranges, self._num_drawn = tf.constant(estimates.ranges), max(estimates.counts)
        self._num_counts = len(estimates.counts)
        self._compiled = {}

    def __call__(self, images, start):
        """Returns the arrays of `Estimates` for the images from `start` on."""
        size, batch = batches.full_batch(images, start)
        with_k_hats = start < self._num_k_hats
        image_ids = tf.range(start, start + len(batch))
        bounds, elbo, effective_sample_size, largest = self._bounds(with_k_hats)(
            batch, image_ids, self._ranges, self._key
        )
        k_hats = pareto.k_hat(largest, self._num_drawn) if with_k_hats else np.zeros(len(batch))
        k_hats = np.where(image_ids < self._num_k_hats, k_hats, math.nan)
        arrays = {
            "bounds": bounds[: self._num_counts],
            "halves": bounds[self._num_counts :],
            "elbos": elbo,
            "effective_sample_sizes": effective_sample_size,
            "largest_weights": tf.exp(largest[:, 0]),
            "k_hats": k_hats,
        }
        return {name: np.asarray(array, np.float64)[..., :size] for name, array in arrays.items()}

    def _bounds(self, with_k_hats):
        """`importance_bounds`, compiled once with the log-weights that k-hat needs and once without."""
        if with_k_hats not in self._compiled:
            num_largest = pareto.num_tail(self._num_drawn) if with_k_hats else 1
            bounds = functools.partial(importance_bounds, self._model, num_largest=num_largest)
            self._compiled[with_k_hats] = tf.function(bounds, jit_compile=self._model.jit_compile)
        return self._compiled[with_k_hats]
