"""Batches of one compiled shape."""

import numpy as np
import tensorflow as tf

# Images in one compiled call, which so lasts less than a second.
IMAGES_PER_CALL = 20


def full_batch(images, start):
    """Returns (size, batch): the last batch is filled up to the one compiled shape with its last image."""
    batch = images[start : start + IMAGES_PER_CALL]
    filling = np.repeat(batch[-1:], IMAGES_PER_CALL - len(batch), axis=0)
    return len(batch), tf.constant(np.concatenate([batch, filling]))
