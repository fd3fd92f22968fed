"""Batches with one shape, so that a function is compiled only once."""

import numpy as np
import tensorflow as tf

# The number of images in one compiled call, which then takes less than a second.
IMAGES_PER_CALL = 20


def full_batch(images: np.ndarray, start: int) -> tuple[int, tf.Tensor]:
    """Returns (size, batch) from image `start` on; a shorter last batch is padded with copies of its last image."""
    batch = images[start : start + IMAGES_PER_CALL]
    padding = np.repeat(batch[-1:], IMAGES_PER_CALL - len(batch), axis=0)
    return len(batch), tf.constant(np.concatenate([batch, padding]))
