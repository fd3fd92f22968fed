"""Checkpoints during training: when they are written, and what ends the training early."""

import time

from iwae_tf.runs import checkpoints
from iwae_tf.runtime import signals
from iwae_tf.training import state


class Saver:
    """Saves after every epoch, some minutes after the last checkpoint, and when a signal asks to stop.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      run: the `runs.RunDirectory` to write to, or None in a worker that writes nothing.
      plan: a `Plan`.
      history: the `history.History` of the training; its `seconds` are updated.

    Attributes:
      saved_values: the values at the last checkpoint, as `state.values_of_training` returned them.
    """

    def __init__(self, model, run, plan, history):
        self._model = model
        self._run = run
        self._minutes = plan.checkpoint_minutes
        self._history = history
        self._seconds_before = history.seconds
        self._start = self._saved_at = time.monotonic()
        self.saved_values = state.values_of_training(model)

    def seconds(self):
        """Seconds of training, interruptions left out, with validation and pictures."""
        return self._seconds_before + time.monotonic() - self._start

    def within_epoch(self, events, workers):
        """Saves if it is time to, and stops if a signal asks for it.

        Args:
          events: the open event files, or None.
          workers: `distribute.Workers`, all of which call this function.

        Raises:
          signals.Interrupted: a worker received a signal.
        """
        signal_number = workers.any(signals.received() or 0)
        # The chief's clock decides.
        is_time = time.monotonic() - self._saved_at > 60.0 * self._minutes and workers.is_chief
        if signal_number or workers.any(is_time):
            self._save(events)
        signals.stop_for(signal_number)

    def after_epoch(self, events, workers):
        """Saves, and stops if a signal asks for it; for the arguments see `within_epoch`."""
        if self._run:
            self._run.write_history(self._history.rows)
        self._save(events)
        signals.stop_for(workers.any(signals.received() or 0))

    def _save(self, events):
        self._saved_at = time.monotonic()
        self._history.seconds = self.seconds()
        self.saved_values = state.values_of_training(self._model)
        if self._run:
            # Events first: a resumed run writes again what comes after the checkpoint, but not what comes before it.
            events.flush()
            arrays = {**self.saved_values, **self._history.to_arrays()}
            checkpoints.save(self._run.checkpoints, self._model.num_steps, arrays)
