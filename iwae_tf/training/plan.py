"""The plan of a training run: its schedule, batches and optimizer."""

import dataclasses
import math
import numbers

import keras

from iwae_tf import schedules
from iwae_tf.errors import UserError
from iwae_tf.models import ImportanceWeightedAutoencoder

SCHEDULES = ("cosine", "paper")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
      schedule: "cosine" over `epochs`, or "paper" for the paper's stages.
      epochs: passes over the training images.
      first_epochs: how many epochs at the start use `first_num_samples`; with the cosine schedule, the learning rate
        is constant in these epochs.
      first_num_samples: samples per image in the first epochs.
      learning_rate: the learning rate at the start.
      batch_size: images per step; an incomplete batch at the end of an epoch is dropped.
      adam_epsilon: Adam's epsilon.
      ema_momentum: momentum of the exponential moving average of the weights, 0 for no averaging; it is lowered if the
        average would span more than a tenth of the training.
      picture_every: epochs between pictures and active units in the event files.
      jit: whether to compile with XLA.
      clip_norm: the gradients of a step are scaled down together to this norm; 0 for no clipping.
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

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}, but must be one of {', '.join(SCHEDULES)}.")
        for name in ("epochs", "batch_size", "first_num_samples", "picture_every"):
            self._check(
                name,
                isinstance(getattr(self, name), numbers.Integral) and getattr(self, name) >= 1,
                "a positive integer",
            )
        self._check("first_epochs", self.first_epochs in range(self.epochs + 1), "an integer from 0 to epochs")
        for name in ("learning_rate", "adam_epsilon"):
            # In single precision, smaller numbers are zero.
            self._check(name, 1.2e-38 <= getattr(self, name) < math.inf, "a positive number, at least 1.2e-38")
        for name in ("clip_norm", "checkpoint_minutes"):
            self._check(name, 0.0 <= getattr(self, name) < math.inf, "a number that is not negative")
        self._check("ema_momentum", 0.0 <= self.ema_momentum < 1.0, "at least 0 and less than 1")

    def _check(self, name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {expected}.")

    def steps_per_epoch(self, num_images: int) -> int:
        """Returns the number of full batches in `num_images` images.

        Raises:
          UserError: there is not even one.
        """
        if self.batch_size > num_images:
            raise UserError(
                f"batch_size={self.batch_size} is more than the {num_images} training images; use a smaller batch_size."
            )
        return num_images // self.batch_size

    def samples_in_epoch(self, epoch: int, model: ImportanceWeightedAutoencoder) -> int:
        """Returns the number of samples per image in an epoch, counted from 0."""
        return self.first_num_samples if epoch < self.first_epochs else model.num_samples

    def optimizer(self, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Returns the paper's Adam [arXiv:1509.00519, section 5] with this plan's learning rates and averaging."""
        if self.schedule == "cosine":
            steps, constant_steps = self.epochs * steps_per_epoch, self.first_epochs * steps_per_epoch
            rates = schedules.CosineSchedule(self.learning_rate, steps, constant_steps)
        else:
            rates = schedules.PaperSchedule(self.learning_rate, steps_per_epoch)
        # An average over more than a tenth of a short training would lag behind the weights.
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
