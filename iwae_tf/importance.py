"""Estimates of log p(x) by importance sampling: L_5000, and L_k for smaller k from the same samples.

Like the gradient estimators, the functions take the model as an argument and call back `draw_epsilon` and
`log_weight_terms`.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import noise
from iwae_tf.runtime import machine, parallel

# The noise is keyed by image and block of samples, so this number is part of the definition of the random numbers.
BLOCK = 500
# The logarithm of 0 in sums, which 2 * _NOTHING also is. It is finite, so tf.debugging.enable_check_numerics, which
# refuses infinities, can be used.
_NOTHING = -1e38
# Sums below this one consist of zeros only.
_LEAST_SUM = 0.1 * _NOTHING
# Blocks that pass through the networks at once. 1,000 rows are fastest on a CPU: its cache holds the activations. On a
# GPU, the time goes into starting its programs, so there are fewer of them for all 5,000 samples at once.
_CHUNK_BLOCKS, _CHUNK_BLOCKS_ON_GPU = 2, 10


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
    model: keras.Model,
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


def fastest_chunk_blocks(num_samples: int) -> int:
    """Returns the `chunk_blocks` of `importance_bounds` that are fastest on this machine for a number of samples."""
    if not machine.has_gpu():
        return _CHUNK_BLOCKS
    return min(-(-num_samples // BLOCK), _CHUNK_BLOCKS_ON_GPU)


def with_infinity(log_sums: np.ndarray) -> np.ndarray:
    """Returns logarithms of sums as float64, where a sum of zeros is -inf: p(x) is 0 in single precision."""
    log_sums = np.asarray(log_sums, np.float64)
    return np.where(log_sums < _LEAST_SUM, -np.inf, log_sums)


def _stream(model, x, ranges, image_key, num_largest, chunk_blocks):
    """The `ImageBounds` of one image, [num_ranges], two scalars and [num_largest]."""
    total = tf.reduce_max(ranges)

    def one_chunk(first_block, log_sums, log_sum, log_sum_of_squares, largest, weight_sum):
        blocks = [model.draw_epsilon(BLOCK, 1, noise.fold_in(image_key, first_block + i)) for i in range(chunk_blocks)]
        epsilon = [tf.concat(layer, axis=0) for layer in zip(*blocks, strict=True)]
        log_weights = tf.cast(model.log_weight_terms(x, epsilon).log_weights[:, 0], tf.float32)
        index = first_block * BLOCK + tf.range(chunk_blocks * BLOCK)
        in_ranges = (index >= ranges[:, :1]) & (index < ranges[:, 1:])
        drawn = tf.where(index < total, log_weights, _NOTHING)
        return (
            first_block + chunk_blocks,
            _add(log_sums, tf.where(in_ranges, log_weights, _NOTHING)),
            _add(log_sum, drawn),
            _add(log_sum_of_squares, 2.0 * drawn),
            _largest(tf.concat([largest, drawn], axis=0), num_largest),
            weight_sum + tf.reduce_sum(tf.where(index < total, log_weights, 0.0)),
        )

    start = [0, tf.fill([tf.shape(ranges)[0]], _NOTHING), _NOTHING, _NOTHING, tf.fill([num_largest], _NOTHING), 0.0]
    _, log_sums, log_sum, log_sum_of_squares, largest, weight_sum = tf.while_loop(
        lambda block, *_: block * BLOCK < total, one_chunk, start
    )
    return ImageBounds(
        log_sums - tf.math.log(tf.cast(ranges[:, 1] - ranges[:, 0], tf.float32)),
        weight_sum / tf.cast(total, tf.float32),
        tf.exp(2.0 * log_sum - log_sum_of_squares),
        largest - log_sum,
    )


class PosteriorMeans(NamedTuple):
    """What the samples of z say of each row.

    Attributes:
      x: the self-normalised estimate of E[x | the observed values], [batch, event].
      effective_sample_size: 1 / sum_i w~_i^2, [batch]; 0 if all weights are 0, and the others mean nothing.
      z_1: samples of the bottom layer, drawn by their weights, [num_draws, batch, d_1].
    """

    x: tf.Tensor
    effective_sample_size: tf.Tensor
    z_1: tf.Tensor


def posterior_means(
    model: keras.Model,
    x: tf.Tensor,
    image_ids: tf.Tensor,
    num_samples: tf.Tensor | int,
    key: tf.Tensor,
    num_draws: int = 1,
) -> PosteriorMeans:
    """Estimates the posterior mean of x, and draws from the posterior by sampling importance resampling.

    For missing values these are the single and the multiple imputation of MIWAE (arXiv:1812.02633, section 3). The
    weights, in blocks of the stream that `importance_bounds` draws, are added up as there; a draw is the sample with
    the largest sum of log-weight and Gumbel noise, which needs no second pass.

    Args:
      model: as for `importance_bounds`, with `generative`.
      x: float tensor [batch, event], where NaN is a missing value.
      image_ids: as for `importance_bounds`.
      num_samples: samples for each row.
      key: int32 [2], see `noise.key`.
      num_draws: the number of draws.

    Returns:
      A `PosteriorMeans`.
    """
    latent, event = model.inference.latent_dims[0], x.shape[1]
    shapes: tuple = ([event], [], [num_draws, latent])
    columns = [tf.TensorArray(tf.float32, tf.shape(x)[0], element_shape=shape) for shape in shapes]

    def one_row(i, *columns):
        values = _posterior_of_row(model, tf.gather(x, [i]), num_samples, noise.fold_in(key, image_ids[i]), num_draws)
        return i + 1, *(column.write(i, value) for column, value in zip(columns, values, strict=True))

    _, *columns = tf.while_loop(lambda i, *_: i < tf.shape(x)[0], one_row, [0, *columns])
    means, sizes, z_1 = (column.stack() for column in columns)
    return PosteriorMeans(means, sizes, tf.transpose(z_1, [1, 0, 2]))


def _posterior_of_row(model, x, num_samples, row_key, num_draws):
    """The `PosteriorMeans` of one row: [event], a scalar and [num_draws, d_1]."""

    def one_block(block, log_sum, log_sum_of_squares, mean, best, z_1):
        epsilon = model.draw_epsilon(BLOCK, 1, noise.fold_in(row_key, block))
        z, _ = model.inference(x, epsilon)
        terms = model.terms_at(x, z)
        log_weights = tf.cast(terms.log_weights[:, 0], tf.float32)
        log_weights = tf.where(block * BLOCK + tf.range(BLOCK) < num_samples, log_weights, _NOTHING)
        log_weights = tf.maximum(log_weights, _NOTHING)
        of_block = tf.reduce_logsumexp(log_weights)
        new_sum = _add(log_sum, log_weights)
        expected = tf.cast(model.generative.decode(z[0]).mean()[:, 0], tf.float32)
        of_block_mean = tf.reduce_sum(tf.exp(log_weights - of_block)[:, tf.newaxis] * expected, axis=0)
        mean = mean * tf.exp(log_sum - new_sum) + of_block_mean * tf.exp(of_block - new_sum)
        uniform = noise.uniform([BLOCK, num_draws], noise.fold_in(row_key, -1 - block))
        scores = log_weights[:, tf.newaxis] - tf.math.log(-tf.math.log(tf.maximum(uniform, 1e-30)))
        first = tf.argmax(scores, axis=0)
        largest = tf.reduce_max(scores, axis=0)
        z_1 = tf.where((largest > best)[:, tf.newaxis], tf.gather(tf.cast(z[0][:, 0], tf.float32), first), z_1)
        return block + 1, new_sum, _add(log_sum_of_squares, 2.0 * log_weights), mean, tf.maximum(best, largest), z_1

    draws = [tf.fill([num_draws], 2.0 * _NOTHING), tf.zeros([num_draws, model.inference.latent_dims[0]])]
    _, log_sum, log_sum_of_squares, mean, _, z_1 = tf.while_loop(
        lambda block, *_: block * BLOCK < num_samples,
        one_block,
        [0, _NOTHING, _NOTHING, tf.zeros([x.shape[1]]), *draws],
    )
    size = tf.where(log_sum < _LEAST_SUM, 0.0, tf.exp(2.0 * log_sum - log_sum_of_squares))
    return mean, size, z_1


def _largest(log_weights, count):
    """The largest of log_weights [n], descending, [count]; more than one needs a sort, which is slower."""
    if count == 1:
        return tf.reduce_max(log_weights, keepdims=True)
    return tf.math.top_k(log_weights, count).values


def _add(log_sum, log_weights):
    """log(exp(log_sum) + sum exp(log_weights)) over the last axis of log_weights."""
    return tf.reduce_logsumexp([log_sum, tf.reduce_logsumexp(log_weights, axis=-1)], axis=0)


# The number of images in one compiled call, which then takes less than a second.
IMAGES_PER_CALL = 20


def starts(images: np.ndarray, first_call: int = 0, step: int = 1) -> range:
    """Returns the first image of each compiled call, of those from `first_call` on, or of each `step`-th one."""
    return range(first_call * IMAGES_PER_CALL, len(images), step * IMAGES_PER_CALL)


def full_batch(images: np.ndarray, start: int) -> tuple[int, tf.Tensor]:
    """Returns (size, batch) from image `start` on; a shorter last batch is padded with copies of its last image.

    Thus all batches have one shape, and a function of them is compiled only once.
    """
    batch = images[start : start + IMAGES_PER_CALL]
    padding = np.repeat(batch[-1:], IMAGES_PER_CALL - len(batch), axis=0)
    return len(batch), tf.constant(np.concatenate([batch, padding]))


@dataclasses.dataclass(frozen=True)
class LogLikelihood:
    """Estimates of log p(x), one per image.

    Attributes:
      values: L_k in nats, a lower bound on log p(x) in expectation, float64 [num_images].
      effective_sample_size: 1 / sum_i w~_i^2, from 1 to the number of samples, float64 [num_images].
    """

    values: np.ndarray
    effective_sample_size: np.ndarray

    @property
    def mean(self) -> float:
        """The mean over the images in nats; the NLL is its negative."""
        return float(self.values.mean())

    @property
    def stderr(self) -> float:
        """The standard error of the mean over the images; NaN for a single image."""
        return float(self.values.std(ddof=1) / np.sqrt(len(self))) if len(self) > 1 else float("nan")

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype, copy=copy)


def log_likelihood(measure: Callable[..., ImageBounds], x: np.ndarray, num_samples: int, seed: int) -> LogLikelihood:
    """Estimates log p(x) of every image: L_k with k = num_samples [1, section 5].

    Args:
      measure: `importance_bounds` of a model, compiled.
      x: float array [num_images, event].
      num_samples: importance samples per image; memory does not depend on it.
      seed: seed of the samples. The noise of an image depends on its row and the seed only.

    Returns:
      A `LogLikelihood`.
    """
    ranges, key = tf.constant([[0, num_samples]]), noise.key(seed, "evaluation")

    def measure_batch(start):
        size, batch = full_batch(x, start)
        measured = measure(batch, tf.range(start, start + len(batch)), ranges, key)
        return np.array([with_infinity(measured.bounds[0]), measured.effective_sample_size])[:, :size]

    columns = list(parallel.results(measure_batch, starts(x)))
    return LogLikelihood(*np.concatenate(columns, axis=1))
