"""Samples and reconstructions as arrays of pixels."""

import numpy as np
import tensorflow as tf

from iwae_tf import noise


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
