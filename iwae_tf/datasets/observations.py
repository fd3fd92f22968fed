"""From the values of a data set to x, in the units of the likelihood: binarised, divided by 255, or as they are."""

import numpy as np
import tensorflow as tf

from iwae_tf.datasets import binarization
from iwae_tf.supports import Support

# The evaluation uses one binarisation for every run and seed, so that runs can be compared.
SEED = binarization.FIXED_BINARIZATION_SEED


def drawn(values: tf.Tensor, support: Support, key: tf.Tensor) -> tf.Tensor:
    """Returns x for a training step; grey values are binarised with the noise of a key.

    Args:
      values: uint8 or float32 [batch, event], rows of a `Dataset`.
      support: the values that x may have.
      key: int32 [2], see `noise.key`.

    Returns:
      Float32 [batch, event].
    """
    if values.dtype == tf.uint8 and support.is_binary:
        return binarization.binarize(values, key)
    x = tf.cast(values, tf.float32)
    return x / 255.0 if values.dtype == tf.uint8 and support.is_unit_interval else x


def fixed(values: np.ndarray, split: str, support: Support, seed: int = SEED) -> np.ndarray:
    """Returns x for an evaluation: the same on every call.

    Args:
      values: uint8 or float32 [num_rows, event], a split of a `Dataset` or its first rows.
      split: "train", "validation" or "test".
      support: the values that x may have.
      seed: the seed of the binarisation.

    Returns:
      Float32 [num_rows, event].
    """
    if values.dtype == np.uint8 and support.is_binary:
        return binarization.fixed_binarization(values, split, seed)
    scale = np.float32(255.0 if values.dtype == np.uint8 and support.is_unit_interval else 1.0)
    return values.astype(np.float32) / scale
