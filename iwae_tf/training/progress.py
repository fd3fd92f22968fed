"""The lines that training prints."""

import time

import numpy as np

from iwae_tf.runtime import progress

# The part of an epoch's time that does not depend on its samples, in samples.
_FIXED_WORK = 3.0


class Progress:
    """Prints a line per epoch and, on a terminal, updates it within the epoch.

    Args:
      epochs_before: epochs that are trained already, with a fraction for a part of an epoch.
      num_samples: samples per image in each epoch.
    """

    def __init__(self, epochs_before, num_samples):
        self._num_epochs = num_epochs = len(num_samples)
        self._ends = np.cumsum([0.0, *(count + _FIXED_WORK for count in num_samples)])
        self._before = self._work(epochs_before)
        self._line = progress.StatusLine()
        # The first call compiles, which says nothing about the time left.
        self._start = None
        first = f"training epochs {int(epochs_before) + 1} to {num_epochs}"
        within = f", from {epochs_before % 1.0:.0%} of the first" if epochs_before % 1.0 else ""
        self._line.keep(f"{first}{within}; compiling takes some seconds")

    def within_epoch(self, epoch, done, means):
        """Reports that a share `done` of an epoch is trained."""
        if self._start is None:
            self._start, self._before = time.monotonic(), self._work(epoch + done)
        self._line.update(lambda: self._text(epoch, done, f"train {means['iwae_bound']:8.2f} nats ({done:.0%})"))

    def after_epoch(self, row):
        """Reports the row of a finished epoch."""
        bounds = f"train {row['train_iwae_bound']:8.2f}  validation {row['validation_iwae_bound']:8.2f} nats"
        self._line.keep(self._text(int(row["epoch"]) - 1, 1.0, bounds))

    def _text(self, epoch, done, bounds):
        finished = self._work(epoch + done)
        text = f"epoch {epoch + 1:{len(str(self._num_epochs))}}/{self._num_epochs}  {bounds}"
        if finished == self._ends[-1]:
            return f"{text}  0 s left"
        if finished == self._before:
            return text
        seconds = (time.monotonic() - self._start) / (finished - self._before) * (self._ends[-1] - finished)
        return f"{text}  {progress.duration(seconds)} left"

    def _work(self, epochs):
        """The work of the first `epochs` epochs, which may be a fraction."""
        return float(np.interp(epochs, np.arange(len(self._ends)), self._ends))
