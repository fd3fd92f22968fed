"""Samples and reconstructions as pictures of pixel means, and their grey values."""

import math

import numpy as np
import tensorflow as tf

from iwae_tf import models, noise, supports


def sample_means(
    model: models.ImportanceWeightedAutoencoder, num_images: int, image_shape: tuple[int, ...], seed: int = 0
) -> np.ndarray:
    """Draws latent variables from the prior and returns the pixel means, float array [num_images, *image_shape]."""
    return model.sample(num_images, seed).numpy().reshape(-1, *image_shape)


def reconstruction_pairs(
    model: models.ImportanceWeightedAutoencoder,
    images: np.ndarray,
    image_shape: tuple[int, ...],
    num_images: int = 50,
    columns: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Reconstructs the first images.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      images: float array [num_images or more, event].
      image_shape: (height, width) or (height, width, 3).
      num_images: how many images to reconstruct.
      columns: the number of images in a row.
      seed: seed of the samples of q(z | x).

    Returns:
      Rows of images alternating with rows of the pixel means of their reconstructions, float array
      [2 * num_images, *image_shape].
    """
    x = images[:num_images]
    means = model.reconstructed(tf.constant(x), noise.key(seed, "reconstructions")).mean().numpy()
    starts = range(0, len(x), columns)
    rows = [stack[i : i + columns] for i in starts for stack in (x, means)]
    return np.concatenate(rows).reshape(-1, *image_shape)


def as_pictures(values: np.ndarray, support: supports.Support) -> np.ndarray:
    """Maps values of x to [0, 1]: by the limits of the support, or by those of the values if there are none."""
    low, high = support.low, support.high
    if not math.isfinite(high):
        low, high = float(values.min()), float(values.max())
    return np.clip((values - low) / max(high - low, 1e-30), 0.0, 1.0)
