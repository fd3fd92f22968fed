"""Samples and reconstructions as arrays of pixel means."""

import numpy as np
import tensorflow as tf

from iwae_tf import models, noise


def sample_means(
    model: models.ImportanceWeightedAutoencoder, num_images: int, image_shape: tuple[int, int], seed: int = 0
) -> np.ndarray:
    """Draws latent variables from the prior and returns the pixel means, float array [num_images, height, width]."""
    return model.sample(num_images, seed).numpy().reshape(-1, *image_shape)


def reconstruction_pairs(
    model: models.ImportanceWeightedAutoencoder,
    images: np.ndarray,
    image_shape: tuple[int, int],
    num_images: int = 50,
    columns: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Reconstructs the first images.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      images: float array [num_images or more, event].
      image_shape: (height, width).
      num_images: how many images to reconstruct.
      columns: the number of images in a row.
      seed: seed of the samples of q(z | x).

    Returns:
      Rows of images alternating with rows of the pixel means of their reconstructions, float array
      [2 * num_images, height, width].
    """
    x = images[:num_images]
    means = model.reconstructed(tf.constant(x), noise.key(seed, "reconstructions")).mean().numpy()
    starts = range(0, len(x), columns)
    rows = [stack[i : i + columns] for i in starts for stack in (x, means)]
    return np.concatenate(rows).reshape(-1, *image_shape)
