"""Checkpoints during training, and errors for values that are not finite."""

import math
import time

import numpy as np
import tensorflow as tf

from iwae_tf.errors import UserError
from iwae_tf.runs import checkpoints
from iwae_tf.runtime import distribute, signals
from iwae_tf.training import batches, state


class Saver:
    """Writes the checkpoints: after every epoch, some minutes after the last one, and when a signal asks to stop.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      run: the `runs.RunDirectory` to write to, or None for a worker that writes nothing.
      plan: a `Plan`.
      record: the training's `history.History`.
    """

    def __init__(self, model, run, plan, record):
        self._model = model
        self._run = run
        self._minutes = plan.checkpoint_minutes
        self._record = record
        self._seconds_before = record.seconds
        self._start = self._saved = time.monotonic()
        self._good = state.values_of_training(model)

    def seconds(self):
        """Seconds spent in training, interrupted or not, with validation and pictures."""
        return self._seconds_before + time.monotonic() - self._start

    def within_epoch(self, events, workers):
        """Saves, if it is time to; ends the training if a signal asks for that."""
        signal_number = workers.any(signals.received() or 0)
        # The chief's clock decides.
        is_time = time.monotonic() - self._saved > 60.0 * self._minutes and workers.is_chief
        if signal_number or workers.any(is_time):
            self._save(events)
        signals.stop_for(signal_number)

    def after_epoch(self, events, workers):
        """Saves, and ends the training if a signal asks for that."""
        if self._run:
            self._run.write_history(self._record.rows)
        self._save(events)
        signals.stop_for(workers.any(signals.received() or 0))

    def _save(self, events):
        """Writes the events first: what is after a checkpoint is written again, what is before it is not."""
        self._saved = time.monotonic()
        self._record.seconds = self.seconds()
        self._good = state.values_of_training(self._model)
        if self._run:
            events.flush()
            step = self._model.num_steps
            checkpoints.save(self._run.checkpoints, step, {**self._good, **self._record.to_arrays()})

    def refuse_trouble(self, split, means, images, plan):
        """Raises a UserError if means that were just measured, or weights, are not finite.

        Args:
          split: "training" or "validation", whose means these are.
          means: name -> float.
          images: the training images.
          plan: a `Plan`.
        """
        weights = self._model.trainable_variables if split == "validation" else ()
        wrong = [f"the {split} {name} is {mean}" for name, mean in means.items() if not math.isfinite(mean)]
        wrong += [f"{weight.path} is not finite" for weight in weights if not np.isfinite(weight.numpy()).all()]
        if not wrong:
            return
        step = self._model.num_steps
        trouble = f"{wrong[0]} after step {step}"
        if distribute.Workers(self._model.distribute_strategy).count == 1:
            trouble = self._first_trouble(tf.constant(images), plan, step) or trouble
        raise UserError(_advice(trouble, self._run))

    def _first_trouble(self, images, plan, last_step):
        """Repeats the steps since the last checkpoint one by one, up to the first that goes wrong, and describes it."""
        model = self._model
        for name, variable in state.variables_of_training(model).items():
            variable.assign(self._good[name])

        @tf.function(jit_compile=model.jit_compile)
        def one_step(indices, num_samples):
            def of_replica():
                terms, gradients = model.gradients(batches.batch(model, images, indices), num_samples)
                model.optimizer.apply(gradients, model.trainable_variables)
                bound = tf.reduce_mean(model.objective.generative.value(terms.log_weights))
                return bound, [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]

            return model.distribute_strategy.run(of_replica)

        steps = plan.steps_per_epoch(len(images))
        for step in range(model.num_steps, last_step):
            indices = batches.epoch_order(len(images), plan, model.seed, step // steps)[step % steps]
            bound, finite = one_step(indices, plan.num_samples(step // steps, model))
            bound = float(model.distribute_strategy.experimental_local_results(bound)[0])
            finite = [model.distribute_strategy.experimental_local_results(one)[0] for one in finite]
            wrong = [v.path for v, good in zip(model.trainable_variables, finite, strict=True) if not good]
            if wrong or not math.isfinite(bound):
                others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                where = f"; not finite in the gradient of {wrong[0]}{others}" if wrong else ""
                return f"step {step + 1} (the bound is {bound}{where})"
        return None


def _advice(trouble, run):
    """The message of a training that went wrong."""
    saved = checkpoints.steps(run.checkpoints) if run else []
    good = f"{checkpoints.path(run.checkpoints, saved[-1])} is from before" if saved else "nothing was saved yet"
    return f"Training broke: {trouble}; {good}; try a smaller --learning_rate, or --clip_norm, with --overwrite."
