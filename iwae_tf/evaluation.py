"""What a trained model is worth: log-likelihoods by importance sampling, and active units.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf import interruption, noise, replicas

# The noise is keyed by image and block of samples, so this number is part of the definition of the random numbers.
BLOCK = 500
# Blocks that pass through the networks at once. 1,000 rows do best on a CPU, whose cache holds the activations.
_CHUNK_BLOCKS = 2
ACTIVE_UNIT_THRESHOLD = 0.01
ACTIVE_UNIT_SAMPLES = 100
# Images in one compiled call, which so lasts less than a second.
_IMAGES_PER_CALL = 20


class ImageBounds(NamedTuple):
    """Estimates for each image, in nats.

    Attributes:
      iwae_bounds: L_k for each of the requested numbers of samples, [num_counts, batch].
      elbo: the mean log-weight of the largest number of samples, [batch].
    """

    iwae_bounds: tf.Tensor
    elbo: tf.Tensor


def importance_bounds(model, x, image_ids, sample_counts, key, chunk_blocks=_CHUNK_BLOCKS):
    """Estimates L_k of each image for several k from one stream of samples.

    The log-weights are drawn in chunks and folded into running logsumexps: memory depends neither on the number of
    samples nor on the number of images. The smaller counts use the first of the samples.

    Args:
      model: has `draw_noise(num_samples, batch_size, key)` and `log_weight_terms(x, noise)`.
      x: float tensor [batch, event].
      image_ids: int32 [batch]; with `key` they determine the noise, so the value of an image does not depend on the
        batch in which it stands.
      sample_counts: int32 [num_counts], the numbers of samples; k = 5,000 gives the paper's estimate of log p(x).
      key: int32 [2], see `noise.key`.
      chunk_blocks: how many blocks of `BLOCK` samples are in a chunk; it changes the speed, not the values.

    Returns:
      An `ImageBounds`.
    """
    sample_counts = tf.convert_to_tensor(sample_counts, tf.int32)
    batch = tf.shape(x)[0]
    log_sums = tf.TensorArray(tf.float32, batch, element_shape=sample_counts.shape)
    means = tf.TensorArray(tf.float32, batch, element_shape=[])

    def one_image(i, log_sums, means):
        image_key = noise.fold_in(key, image_ids[i])
        log_sum, mean = _stream(model, tf.gather(x, [i]), sample_counts, image_key, chunk_blocks)
        return i + 1, log_sums.write(i, log_sum), means.write(i, mean)

    _, log_sums, means = tf.while_loop(lambda i, *_: i < batch, one_image, [0, log_sums, means])
    log_counts = tf.math.log(tf.cast(sample_counts, tf.float32))
    return ImageBounds(tf.transpose(log_sums.stack() - log_counts), means.stack())


def _stream(model, x, sample_counts, image_key, chunk_blocks):
    """The logsumexp of the first n log-weights of one image for each n of sample_counts, and the mean of all."""
    total = tf.reduce_max(sample_counts)

    def one_chunk(first_block, log_sum, weight_sum):
        blocks = [model.draw_noise(BLOCK, 1, noise.fold_in(image_key, first_block + i)) for i in range(chunk_blocks)]
        eps = [tf.concat(layer, axis=0) for layer in zip(*blocks, strict=True)]
        log_weights = model.log_weight_terms(x, eps).log_weights[:, 0]
        index = first_block * BLOCK + tf.range(chunk_blocks * BLOCK)
        counted = tf.where(index < sample_counts[:, tf.newaxis], log_weights, -math.inf)
        chunk_sum = tf.reduce_logsumexp(counted, axis=1)
        weight_sum += tf.reduce_sum(tf.where(index < total, log_weights, 0.0))
        return first_block + chunk_blocks, tf.reduce_logsumexp([log_sum, chunk_sum], axis=0), weight_sum

    start = [0, tf.fill(tf.shape(sample_counts), -math.inf), 0.0]
    _, log_sum, weight_sum = tf.while_loop(lambda block, *_: block * BLOCK < total, one_chunk, start)
    return log_sum, weight_sum / tf.cast(total, tf.float32)


class SplitBounds(NamedTuple):
    """Estimates for every image of a split, float64, in nats.

    Attributes:
      log_likelihoods: [num_images], L_k for the number of samples asked for.
      iwae_bounds: [num_images], L_k for the model's own number of samples.
      elbos: [num_images].
    """

    log_likelihoods: np.ndarray
    iwae_bounds: np.ndarray
    elbos: np.ndarray


def evaluate_images(model, images, num_samples, seed=0, report=None, begun=None):
    """Estimates log p(x) of every image by `num_samples` importance samples.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      images: float array [num_images, event], binary for Bernoulli pixels.
      num_samples: importance samples per image.
      seed: seed of the samples.
      report: called with the `SplitBounds` of the images that are finished, the first ones, every few images.
      begun: `SplitBounds` of the first images, from an evaluation with the same arguments that was interrupted.

    Returns:
      `SplitBounds`, the same in all workers if the model was built under a `tf.distribute` strategy; they take turns.

    Raises:
      interruption.Interrupted: a signal asked to stop; what was reported last is what is finished.
    """
    workers = replicas.Workers(model.distribute_strategy)
    key = noise.key(seed, "evaluation")
    counts = tf.constant([num_samples, model.num_samples], tf.int32)
    compiled = tf.function(functools.partial(importance_bounds, model), jit_compile=model.jit_compile)
    values = np.zeros([len(SplitBounds._fields), len(images)])
    done = 0 if begun is None else len(begun.elbos) // _IMAGES_PER_CALL * _IMAGES_PER_CALL
    values[:, :done] = 0 if begun is None else np.stack(begun)[:, :done]
    for turn in range(done, len(images), workers.count * _IMAGES_PER_CALL):
        start = turn + workers.index * _IMAGES_PER_CALL
        stop = min(turn + workers.count * _IMAGES_PER_CALL, len(images))
        if start < len(images):
            size, batch = _full_batch(images, start)
            bounds = compiled(batch, tf.range(start, start + _IMAGES_PER_CALL), counts, key)
            values[:, start : start + size] = np.vstack([bounds.iwae_bounds, bounds.elbo])[:, :size]
        values[:, turn:stop] = workers.sums(values[:, turn:stop])
        if report:
            report(SplitBounds(*values[:, :stop]))
        signal_number = workers.any(interruption.received() or 0)
        if signal_number:
            raise interruption.Interrupted(signal_number)
    return SplitBounds(*values)


def _full_batch(images, start):
    """Returns (size, batch): the last batch is filled up to the one compiled shape with its last image."""
    batch = images[start : start + _IMAGES_PER_CALL]
    filling = np.repeat(batch[-1:], _IMAGES_PER_CALL - len(batch), axis=0)
    return len(batch), tf.constant(np.concatenate([batch, filling]))


def active_units(model, images, num_samples=ACTIVE_UNIT_SAMPLES, seed=0):
    """Counts the units u of every layer with Cov_x(E_{q(u|x)}[u]) > 0.01, the paper's section 5.2 [1].

    The expectation of a layer's unit is the mean of q's conditional mean over samples of the layers that it depends
    on, those below (or above, in the Ladder VAE).

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      images: float array [num_images, event], binary for Bernoulli pixels.
      num_samples: samples of those layers.
      seed: seed of those samples.

    Returns:
      A list of counts, bottom layer first.
    """
    compiled = tf.function(functools.partial(_posterior_means, model, num_samples), jit_compile=model.jit_compile)
    key = noise.key(seed, "active units")
    pieces = []
    for start in range(0, len(images), _IMAGES_PER_CALL):
        size, batch = _full_batch(images, start)
        pieces.append([mean[:size] for mean in compiled(batch, noise.fold_in(key, start))])
    layers = [np.concatenate(means) for means in zip(*pieces, strict=True)]
    return [int(np.sum(np.var(means, axis=0, dtype=np.float64) > ACTIVE_UNIT_THRESHOLD)) for means in layers]


def _posterior_means(model, num_samples, x, key):
    """E_{q(z_l|x)}[z_l] of every layer, L tensors [batch, d_l]; exact in the layer that depends on x alone."""
    _, q = model.inference(x, model.draw_noise(num_samples, tf.shape(x)[0], key))
    means = [q_l.mean() for q_l in q]
    return [mean if mean.shape.rank == 2 else tf.reduce_mean(mean, axis=0) for mean in means]


def sample_means(model, num_images, image_shape, seed=0):
    """Draws latent variables from the prior and returns the pixels' means, float array [num_images, height, width]."""
    means = model.sample(num_images, noise.key(seed, "samples")).mean()
    return means.numpy().reshape(-1, *image_shape)


def reconstruction_pairs(model, images, image_shape, num_images=50, columns=10, seed=0):
    """Rows of images alternating with rows of their reconstructions' means, [2 * num_images, height, width]."""
    x = images[:num_images]
    means = model.reconstruct(tf.constant(x), noise.key(seed, "reconstructions")).mean().numpy()
    starts = range(0, len(x), columns)
    rows = [stack[i : i + columns] for i in starts for stack in (x, means)]
    return np.concatenate(rows).reshape(-1, *image_shape)
