"""Learning rates as functions of the training step.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519, section 5.
"""

import math

import keras
import tensorflow as tf

from iwae_tf.paper import NUM_STAGES

COSINE_FLOOR = 0.01


def cosine(progress, peak):
    """Half a cosine from `peak` at progress 0 to `COSINE_FLOOR * peak` at progress 1.

    Args:
      progress: the share of the training that is done, in [0, 1], any float tensor.
      peak: the learning rate at the start.

    Returns:
      The learning rate, of progress's shape.
    """
    return peak * (COSINE_FLOOR + (1.0 - COSINE_FLOOR) * 0.5 * (1.0 + tf.cos(math.pi * progress)))


def paper(epoch, base):
    """The paper's rate in the epoch counted from 0: base * 10^(-i/7) in stage i, which lasts 3^i epochs [1].

    Args:
      epoch: finished epochs, an integer tensor.
      base: the learning rate of the first stage, 1e-3 in [1].

    Returns:
      The learning rate, float32, of epoch's shape.
    """
    # Stage i ends after 1 + 3 + ... + 3^i epochs: 1, 4, 13, 40, 121, 364 and 1093.
    ends = tf.constant([(3 ** (i + 1) - 1) // 2 for i in range(NUM_STAGES - 1)], dtype=tf.int32)
    stage = tf.reduce_sum(tf.cast(tf.cast(epoch, tf.int32)[..., tf.newaxis] >= ends, tf.float32), axis=-1)
    return base * tf.pow(10.0, -stage / 7.0)


class CosineSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`cosine` as Keras optimizers take it, over `total_steps` steps; it begins after `constant_steps` at `peak`."""

    def __init__(self, peak, total_steps, constant_steps=0):
        self.peak = peak
        self.total_steps = total_steps
        self.constant_steps = constant_steps

    def __call__(self, step):
        progress = (tf.cast(step, tf.float32) - self.constant_steps) / max(self.total_steps - self.constant_steps, 1)
        return cosine(tf.clip_by_value(progress, 0.0, 1.0), self.peak)

    def get_config(self):
        return {"peak": self.peak, "total_steps": self.total_steps, "constant_steps": self.constant_steps}


class PaperSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`paper` as Keras optimizers take it, for epochs of `steps_per_epoch` steps."""

    def __init__(self, base, steps_per_epoch):
        self.base = base
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        return paper(tf.cast(step, tf.int32) // self.steps_per_epoch, self.base)

    def get_config(self):
        return {"base": self.base, "steps_per_epoch": self.steps_per_epoch}
