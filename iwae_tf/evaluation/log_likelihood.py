"""Streaming estimates of log p(x) by importance sampling: L_5000 and the bounds on the way to it.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import noise
from iwae_tf.evaluation import batches, pareto
from iwae_tf.runtime import distribute, signals

# The noise is keyed by image and block of samples, so this number is part of the definition of the random numbers.
BLOCK = 500
# Blocks that pass through the networks at once. 1,000 rows do best on a CPU, whose cache holds the activations.
_CHUNK_BLOCKS = 2


class ImageBounds(NamedTuple):
    """Estimates for each image, in nats where not said otherwise.

    Attributes:
      bounds: the bound of each requested range of samples, [num_ranges, batch].
      elbo: the mean log-weight of all samples, [batch].
      effective_sample_size: 1 / sum_i w~_i^2 of all samples, a number from 1 to theirs, [batch].
      largest: the largest normalized log-weights log w~_i of all samples, descending, [batch, num_largest].
    """

    bounds: tf.Tensor
    elbo: tf.Tensor
    effective_sample_size: tf.Tensor
    largest: tf.Tensor


def importance_bounds(model, x, image_ids, ranges, key, num_largest=1, chunk_blocks=_CHUNK_BLOCKS):
    """Estimates bounds of each image from several parts of one stream of samples.

    The log-weights are drawn in chunks and folded into running logsumexps: memory depends neither on the number of
    samples nor on the number of images. L_k for several k uses the ranges 0 ... k.

    Args:
      model: has `draw_noise(num_samples, batch_size, key)` and `log_weight_terms(x, noise)`.
      x: float tensor [batch, event].
      image_ids: int32 [batch]; with `key` they determine the noise, so the value of an image does not depend on the
        batch in which it stands.
      ranges: int32 [num_ranges, 2], the first sample of each bound and the one after its last; samples up to the
        largest are drawn. L_k with k = 5,000 is the paper's estimate of log p(x).
      key: int32 [2], see `noise.key`.
      num_largest: how many of the largest log-weights to return, at most all that are drawn.
      chunk_blocks: how many blocks of `BLOCK` samples are in a chunk; it changes the speed, not the values.

    Returns:
      An `ImageBounds`.
    """
    ranges = tf.convert_to_tensor(ranges, tf.int32)
    batch = tf.shape(x)[0]
    shapes = (ranges.shape[:1], [], [], [num_largest])
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
        blocks = [model.draw_noise(BLOCK, 1, noise.fold_in(image_key, first_block + i)) for i in range(chunk_blocks)]
        eps = [tf.concat(layer, axis=0) for layer in zip(*blocks, strict=True)]
        log_weights = model.log_weight_terms(x, eps).log_weights[:, 0]
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
    """The largest of log_weights [n], descending, [count]; a sort, which costs more than one maximum."""
    if count == 1:
        return tf.reduce_max(log_weights, keepdims=True)
    return tf.math.top_k(log_weights, count).values


def _add(log_sum, log_weights):
    """log(exp(log_sum) + sum exp(log_weights)) over the last axis of log_weights."""
    return tf.reduce_logsumexp([log_sum, tf.reduce_logsumexp(log_weights, axis=-1)], axis=0)


class SplitBounds:
    """Estimates for every image of a split, or of its beginning.

    Args:
      num_samples: those of the estimate of log p(x), n.
      k: the model's own number of samples.
      values: float64 [rows, num_images], or None for no image.

    Attributes:
      counts: the numbers of samples of the curve of L_k: powers of ten and their fives up to n, k and n.
      values: as above.
    """

    def __init__(self, num_samples, k, values=None):
        powers = [digit * 10**exponent for exponent in range(len(str(num_samples))) for digit in (1, 5)]
        self.num_samples, self.k = num_samples, k
        self.counts = sorted({*(count for count in powers if count < num_samples), k, num_samples})
        self.values = np.zeros([len(self.counts) + 6, 0]) if values is None else values

    @property
    def ranges(self):
        """The `ranges` of `importance_bounds`: those of the curve, and both halves of the n samples."""
        half = max(1, self.num_samples // 2)
        return [*((0, count) for count in self.counts), (0, half), (min(half, self.num_samples - 1), self.num_samples)]

    def at(self, count):
        """L_k of each image for k = count, in nats, [num_images]."""
        return self.values[self.counts.index(count)]

    @property
    def log_likelihoods(self):
        """L_n, in nats, [num_images]."""
        return self.at(self.num_samples)

    @property
    def iwae_bounds(self):
        """L_k for the model's own k, in nats, [num_images]."""
        return self.at(self.k)

    @property
    def corrected(self):
        """L_n without its bias of order 1/n, in nats, [num_images]: the jackknife over both halves, 2 L_n - L_(n/2)."""
        return 2.0 * self.log_likelihoods - 0.5 * (self.values[-6] + self.values[-5])

    @property
    def elbos(self):
        """The mean log-weight, in nats, [num_images]."""
        return self.values[-4]

    @property
    def effective_sample_sizes(self):
        """1 / sum_i w~_i^2, from 1 to the number of samples, [num_images]."""
        return self.values[-3]

    @property
    def largest_weights(self):
        """The largest normalized weight, from 0 to 1, [num_images]."""
        return self.values[-2]

    @property
    def k_hats(self):
        """k-hat of the weights, see `pareto.k_hat`, [num_images]; NaN where it was not asked for."""
        return self.values[-1]

    @property
    def finite(self):
        """Whether all estimates of an image are numbers, as they have to be, [num_images]; k-hat need not be one."""
        return np.isfinite(self.values[:-1]).all(axis=0)

    def first(self, num_images):
        """Those of the first images."""
        return SplitBounds(self.num_samples, self.k, self.values[:, :num_images])

    def __len__(self):
        return self.values.shape[1]


def evaluate_images(model, images, num_samples, seed=0, num_k_hats=0, report=None, begun=None):
    """Estimates log p(x) of every image by `num_samples` importance samples.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      images: float array [num_images, event], binary for Bernoulli pixels.
      num_samples: importance samples per image.
      seed: seed of the samples.
      num_k_hats: how many of the images, the first ones, get a k-hat.
      report: called with the `SplitBounds` of the images that are finished, the first ones, every few images.
      begun: `SplitBounds` of the first images, from an evaluation with the same arguments that was interrupted.

    Returns:
      `SplitBounds`, the same in all workers if the model was built under a `tf.distribute` strategy; they take turns.

    Raises:
      signals.Interrupted: a signal asked to stop; what was reported last is what is finished.
    """
    workers = distribute.Workers(model.distribute_strategy)
    key = noise.key(seed, "evaluation")
    begun = begun or SplitBounds(num_samples, model.num_samples)
    done = len(begun) // batches.IMAGES_PER_CALL * batches.IMAGES_PER_CALL
    missing = np.zeros([len(begun.values), len(images) - done])
    values = np.concatenate([begun.values[:, :done], missing], axis=1)
    found = SplitBounds(num_samples, model.num_samples, values)
    measure = functools.cache(functools.partial(_compiled, model, found, key))
    for turn in range(done, len(images), workers.count * batches.IMAGES_PER_CALL):
        start = turn + workers.index * batches.IMAGES_PER_CALL
        stop = min(turn + workers.count * batches.IMAGES_PER_CALL, len(images))
        if start < len(images):
            size, batch = batches.full_batch(images, start)
            values = measure(start < num_k_hats)(batch, start)[:, :size]
            values[-1, max(num_k_hats - start, 0) :] = math.nan
            found.values[:, start : start + size] = values
        found.values[:, turn:stop] = workers.sums(found.values[:, turn:stop])
        if report:
            report(found.first(stop))
        signals.stop_for(workers.any(signals.received() or 0))
    return found


def _compiled(model, found, key, with_k_hats):
    """Returns a function of a batch and its first image's number: the rows of `found.values`, [rows, batch]."""
    ranges, num_drawn = tf.constant(found.ranges), max(found.counts)
    num_largest = pareto.num_tail(num_drawn) if with_k_hats else 1
    bounds_of = functools.partial(importance_bounds, model, num_largest=num_largest)
    compiled = tf.function(bounds_of, jit_compile=model.jit_compile)

    def measure(batch, first):
        bounds, elbo, effective_sample_size, largest = compiled(batch, tf.range(first, first + len(batch)), ranges, key)
        k_hats = pareto.k_hat(largest, num_drawn) if with_k_hats else np.zeros(len(batch))
        return np.vstack([bounds, elbo, effective_sample_size, tf.exp(largest[:, 0]), k_hats]).astype(np.float64)

    return measure
