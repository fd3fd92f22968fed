"""How to train: the plan of a training run and its optimizer."""

import dataclasses

import keras

from iwae_tf.errors import UserError
from iwae_tf.training import schedules

SCHEDULES = ("cosine", "paper")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
      schedule: "cosine" over `epochs`, or "paper" for the paper's stages.
      epochs: passes over the training images.
      first_epochs: the first of them, which have a constant learning rate (cosine schedule) and
      first_num_samples: samples per image of their own.
      learning_rate: the rate at the start.
      batch_size: images per step; what is left over at the end of an epoch is dropped.
      adam_epsilon: Adam's epsilon.
      ema_momentum: momentum of the weights' average over the steps, 0 for no averaging; it is lowered where it
        would average over more than a tenth of the training.
      picture_every: epochs between pictures and active units in the event files.
      jit: whether to compile with XLA.
      clip_norm: the gradients of a step are scaled down to this norm, all together; 0 for no clipping.
      checkpoint_minutes: minutes between checkpoints within an epoch.
    """

    schedule: str = "cosine"
    epochs: int = 100
    first_epochs: int = 0
    first_num_samples: int = 1
    learning_rate: float = 3e-3
    batch_size: int = 100
    adam_epsilon: float = 1e-4
    ema_momentum: float = 0.999
    picture_every: int = 10
    jit: bool = True
    clip_norm: float = 0.0
    checkpoint_minutes: float = 10.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}, but must be one of {', '.join(SCHEDULES)}.")

    def steps_per_epoch(self, num_images):
        """Full batches in `num_images` images."""
        if self.batch_size > num_images:
            raise UserError(f"--batch_size={self.batch_size} is more than the {num_images} training images.")
        return num_images // self.batch_size

    def num_samples(self, epoch, model):
        """Samples per image in an epoch, counted from 0."""
        return self.first_num_samples if epoch < self.first_epochs else model.num_samples

    def optimizer(self, steps_per_epoch):
        """Returns the paper's Adam [arXiv:1509.00519, section 5] with this plan's learning rates and averaging."""
        if self.schedule == "cosine":
            steps, constant_steps = self.epochs * steps_per_epoch, self.first_epochs * steps_per_epoch
            rates = schedules.CosineSchedule(self.learning_rate, steps, constant_steps)
        else:
            rates = schedules.PaperSchedule(self.learning_rate, steps_per_epoch)
        # An average over more than a tenth of a short training would lag behind it.
        momentum = min(self.ema_momentum, 1.0 - 10.0 / max(self.epochs * steps_per_epoch, 10))
        averaging = {"use_ema": True, "ema_momentum": momentum} if self.ema_momentum else {}
        return keras.optimizers.Adam(
            rates,
            beta_1=0.9,
            beta_2=0.999,
            epsilon=self.adam_epsilon,
            global_clipnorm=self.clip_norm or None,
            **averaging,
        )
