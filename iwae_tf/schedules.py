"""Learning rates as functions of the training step.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519, section 5.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from iwae_tf.paper import NUM_STAGES

COSINE_FLOOR = 0.01


def cosine(progress: tf.Tensor, peak: float) -> tf.Tensor:
    """Half a cosine, from `peak` at progress 0 to `COSINE_FLOOR * peak` at progress 1.

    Args:
      progress: the finished share of the training, in [0, 1], a float tensor of any shape.
      peak: the learning rate at the start.

    Returns:
      The learning rate, of progress's shape.
    """
    return peak * (COSINE_FLOOR + (1.0 - COSINE_FLOOR) * 0.5 * (1.0 + tf.cos(math.pi * progress)))


def paper(epoch: tf.Tensor, base: float) -> tf.Tensor:
    """The paper's learning rate: base * 10^(-i/7) in stage i, which lasts 3^i epochs [1].

    Args:
      epoch: the epoch, counted from 0, an integer tensor of any shape.
      base: the learning rate of the first stage, 1e-3 in [1].

    Returns:
      The learning rate, float32, of epoch's shape.
    """
    # Stage i ends after 1 + 3 + ... + 3^i epochs: 1, 4, 13, 40, 121, 364 and 1093.
    ends = tf.constant([(3 ** (i + 1) - 1) // 2 for i in range(NUM_STAGES - 1)], dtype=tf.int32)
    stage = tf.reduce_sum(tf.cast(tf.cast(epoch, tf.int32)[..., tf.newaxis] >= ends, tf.float32), axis=-1)
    return base * tf.pow(10.0, -stage / 7.0)


@keras.saving.register_keras_serializable("iwae_tf")
class CosineSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`cosine` as a schedule for Keras optimizers.

    Args:
      peak: the learning rate at the start.
      total_steps: training steps in all.
      constant_steps: steps at the start with the learning rate `peak`; the cosine covers the rest.
    """

    def __init__(self, peak: float, total_steps: int, constant_steps: int = 0):
        self.peak = peak
        self.total_steps = total_steps
        self.constant_steps = constant_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        progress = (tf.cast(step, tf.float32) - self.constant_steps) / max(self.total_steps - self.constant_steps, 1)
        return cosine(tf.clip_by_value(progress, 0.0, 1.0), self.peak)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "total_steps": self.total_steps, "constant_steps": self.constant_steps}


@keras.saving.register_keras_serializable("iwae_tf")
class PaperSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`paper` as a schedule for Keras optimizers.

    Args:
      base: the learning rate of the first stage.
      steps_per_epoch: training steps in an epoch.
    """

    def __init__(self, base: float, steps_per_epoch: int):
        self.base = base
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return paper(tf.cast(step, tf.int32) // self.steps_per_epoch, self.base)

    def get_config(self) -> dict[str, Any]:
        return {"base": self.base, "steps_per_epoch": self.steps_per_epoch}
