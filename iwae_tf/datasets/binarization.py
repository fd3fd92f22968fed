"""Grey values -> zeros and ones: drawn anew each time, drawn once and for all, or cut at one half."""

import dataclasses

import numpy as np
import tensorflow as tf

from iwae_tf import noise

# Evaluation is on one fixed binarisation, the same for every run and seed, so that runs can be compared.
FIXED_BINARIZATION_SEED = 0
_BLOCK = 100


def binarize(images, key):
    """Draws each pixel from a Bernoulli whose probability is its grey value.

    Args:
      images: uint8 [..., event].
      key: int32 [2], see `noise.key`.

    Returns:
      Float32 zeros and ones of the same shape; those of images that are binary already, 0 and 255, are theirs.
    """
    return _exceed(images, noise.uniform(tf.shape(images), key))


def fixed_binarization(images, split, seed=FIXED_BINARIZATION_SEED):
    """Binarises a whole split once and for all: the same for every run.

    Args:
      images: uint8 [num_images, event], a split or its beginning.
      split: "train", "validation" or "test".
      seed: what is reported is on that of every run; others show how much of it is chance.

    Returns:
      Float32 zeros and ones, numpy [num_images, event]; an image's value does not depend on how many follow it.
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


# Name -> a function of images (uint8 [n, event]) and their split's name: what training then draws from. Pixels that
# are 0 or 255 are drawn as they are, so that training and evaluation need not know which of these it was.
BINARIZATIONS = {
    "stochastic": lambda images, split: images,
    "fixed": lambda images, split: np.uint8(255) * fixed_binarization(images, split).astype(np.uint8),
    "threshold": lambda images, split: np.where(images > 127, np.uint8(255), np.uint8(0)),
}


def binarize_once(images, binarization):
    """Binarises what is binarised before training begins.

    Args:
      images: `datasets.Images` or any dataclass with arrays `train`, `validation` and `test`.
      binarization: a name from `BINARIZATIONS`.

    Returns:
      The same with grey values for "stochastic", and 0 and 255 for the others.
    """
    splits = ("train", "validation", "test")
    changed = {split: BINARIZATIONS[binarization](getattr(images, split), split) for split in splits}
    return dataclasses.replace(images, **changed)
