"""Grey values -> zeros and ones: drawn at every use, drawn once, or thresholded at one half."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from iwae_tf import noise
from iwae_tf.datasets.catalogue import Dataset

# The evaluation uses one binarisation for every run and seed, so that runs can be compared.
FIXED_BINARIZATION_SEED = 0
_BLOCK = 100


def binarize(images: np.ndarray | tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Draws each pixel from a Bernoulli distribution whose probability is its grey value.

    Args:
      images: uint8 [..., event].
      key: int32 [2], see `noise.key`.

    Returns:
      Float32 zeros and ones of the same shape. Pixels that are 0 or 255 always become 0 or 1.
    """
    return _exceed(images, noise.uniform(tf.shape(images), key))


def fixed_binarization(images: np.ndarray, split: str, seed: int = FIXED_BINARIZATION_SEED) -> np.ndarray:
    """Binarises a split in the same way on every call.

    Args:
      images: uint8 [num_images, event], a split or its first images.
      split: "train", "validation" or "test".
      seed: the default gives the binarisation of all reported results; other seeds show how much the results depend
        on it.

    Returns:
      Float32 zeros and ones [num_images, event]. An image's values do not depend on the number of images after it.
    """
    key = noise.key(seed, f"{split} binarization")
    blocks = []
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        thresholds = noise.uniform([_BLOCK, images.shape[1]], noise.fold_in(key, start))
        blocks.append(_exceed(block, thresholds[: len(block)]).numpy())
    return np.concatenate(blocks)


def _exceed(images, thresholds):
    return tf.cast(thresholds < tf.cast(images, tf.float32) / 255.0, tf.float32)


# Name -> a function of images (uint8 [n, event]) and the name of their split, applied once before training. Training
# and evaluation then draw from the result, which leaves pixels that are 0 or 255 as they are.
BINARIZATIONS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "stochastic": lambda images, split: images,
    "fixed": lambda images, split: np.uint8(255) * fixed_binarization(images, split).astype(np.uint8),
    "threshold": lambda images, split: np.where(images > 127, np.uint8(255), np.uint8(0)),
}


def binarize_once(images: Dataset, binarization: str) -> Dataset:
    """Applies a binarisation before training.

    Args:
      images: the `datasets.Dataset`.
      binarization: a name from `BINARIZATIONS`.

    Returns:
      The same images for "stochastic", and images of 0 and 255 for the other binarisations.
    """
    if images.train.dtype != np.uint8:
        return images  # A table of zeros and ones.
    binarize_split = BINARIZATIONS[binarization]
    return dataclasses.replace(
        images,
        train=binarize_split(images.train, "train"),
        validation=binarize_split(images.validation, "validation"),
        test=binarize_split(images.test, "test"),
    )
