"""Training: the epochs of a plan, with checkpoints, event files and progress.

The model's `train_step` is the only definition of a step; `compiled_steps` runs many of them in one compiled call, on
images that are held in memory. All random numbers are keyed by the step, and a checkpoint holds the rest of the state:
a run that is killed and continued ends with the same weights, history and curves as an uninterrupted one.

Keras' callbacks (BackupAndRestore, CSVLogger, TensorBoard, TerminateOnNaN, SwapEMAWeights) are not used because a run
must resume exactly, also within an epoch: weights, random numbers, running means and the points of all curves. Besides,
callbacks act on single steps, while one compiled call here runs as many as fit into about a second.
"""

from collections.abc import Iterator

import tensorflow as tf

from iwae_tf import execution
from iwae_tf.datasets import Dataset, observations
from iwae_tf.errors import UserError
from iwae_tf.models import ImportanceWeightedAutoencoder
from iwae_tf.runs import RunDirectory
from iwae_tf.runs.results import Training
from iwae_tf.runtime import distribute
from iwae_tf.training import batches, diagnosis, progress, saving, state
from iwae_tf.training import events as event_files
from iwae_tf.training.history import History
from iwae_tf.training.plan import Plan
from iwae_tf.training.validation import Validation


def train(
    model: ImportanceWeightedAutoencoder,
    images: Dataset,
    plan: Plan,
    run: RunDirectory | None,
    continue_training: bool = True,
) -> Training:
    """Trains a model, continuing from the run's last checkpoint if there is one.

    Afterwards the model holds the weights to evaluate: their averages, if the plan averages them.

    Args:
      model: an `ImportanceWeightedAutoencoder`; under a `tf.distribute` strategy every worker calls this function.
      images: the `datasets.Dataset`.
      plan: a `Plan`.
      run: the claimed `runs.RunDirectory`; None in workers other than the chief, which read and write nothing.
      continue_training: if False, only restores the last checkpoint.

    Returns:
      A `runs.results.Training`.

    Raises:
      UserError: batch_size is too large, there is no usable checkpoint, or a bound or a weight is not finite.
      signals.Interrupted: a signal asked to stop; the training so far is saved.
    """
    steps_per_epoch = plan.steps_per_epoch(len(images.train))
    state.prepare(model, plan, steps_per_epoch)
    history = state.restore(model, run)
    first_step, last_step = model.num_steps, plan.epochs * steps_per_epoch
    if run and first_step:
        run.write_history(history.rows)  # The file may be damaged, or have rows of epochs after the checkpoint.
    if continue_training and first_step < last_step:
        if run and run.is_released():
            raise UserError(
                f"{run.path} is a released model, whose training cannot be continued; start a new run from its weights."
            )
        if run:
            run.discard_results()
        for _ in train_epochs(model, images, plan, run, history):
            pass
    state.use_averages(model)
    if not model.num_steps:
        raise UserError("The run has no checkpoint, so there is no trained model; train the run first.")
    return _result(model, plan, steps_per_epoch, history, resumed=0 < first_step < last_step)


def _result(model, plan, steps_per_epoch, history, resumed):
    steps = model.num_steps
    return Training(
        steps=steps,
        epochs=steps // steps_per_epoch,
        seconds=history.seconds,
        examples_per_second=steps * plan.batch_size / history.seconds if history.seconds else 0.0,
        resumed=resumed,
    )


def train_epochs(
    model: ImportanceWeightedAutoencoder, images: Dataset, plan: Plan, run: RunDirectory | None, history: History
) -> Iterator[dict[str, float]]:
    """Trains a prepared model from its current step to the end of the plan.

    Args:
      model: an `ImportanceWeightedAutoencoder` after `prepare`, and `restore` if it is continued.
      images: the `datasets.Dataset`.
      plan: a `Plan`.
      run: as for `train`.
      history: the history of the training so far; rows are appended to it.

    Yields:
      The row of history.csv of each epoch, after the epoch is saved.

    Raises:
      UserError: as `train`.
      signals.Interrupted: as `train`.
    """
    epochs = _Epochs(model, images, plan, run, history)
    with event_files.events(run) as events:
        for epoch in range(model.num_steps // epochs.steps_per_epoch, plan.epochs):
            means = epochs.train_epoch(epoch, events)
            yield epochs.finish_epoch(epoch, means, events)


class _Epochs:
    """Trains one epoch after another; the arguments are those of `train_epochs`.

    Attributes:
      steps_per_epoch: training steps in an epoch.
    """

    def __init__(self, model, images, plan, run, history):
        self._model, self._images, self._plan, self._run, self._history = model, images, plan, run, history
        self._workers = distribute.Workers(model.distribute_strategy)
        self.steps_per_epoch = plan.steps_per_epoch(len(images.train))
        self._train_images = tf.constant(images.train)
        self._num_samples = [plan.samples_in_epoch(epoch, model) for epoch in range(plan.epochs)]
        # Each is compiled when it is first called.
        self._run_steps = {
            num_samples: batches.compiled_steps(model, self._train_images, num_samples)
            for num_samples in set(self._num_samples)
        }
        self._validation = Validation(model, observations.fixed(images.validation, "validation", model.support))
        self._points = event_files.Points(model, history)
        self._saver = saving.Saver(model, run, plan, history)
        self._progress = progress.Progress(model.num_steps / self.steps_per_epoch, self._num_samples)

    def train_epoch(self, epoch, events):
        """Trains the rest of an epoch; returns the metrics' means over the whole epoch, name -> float."""
        first_step = self._model.num_steps % self.steps_per_epoch
        if not first_step:
            self._model.reset_metrics()
            self._points.begin_epoch()
        order = batches.epoch_order(len(self._images.train), self._plan, self._model.seed, epoch)
        num_samples = self._num_samples[epoch]
        steps_per_call = execution.steps_per_call(
            self._model, num_samples, self._plan.batch_size, event_files.STEPS_PER_POINT
        )
        for start in range(first_step, self.steps_per_epoch, steps_per_call):
            stop = min(start + steps_per_call, self.steps_per_epoch)
            means = {name: float(mean) for name, mean in self._run_steps[num_samples](order, start, stop).items()}
            self._check_finite("training", means)
            is_last = stop == self.steps_per_epoch
            self._points.after_call(events, means, stop, steps_per_call, is_last)
            self._progress.within_epoch(epoch, stop / self.steps_per_epoch, means)
            if not is_last:
                self._saver.within_epoch(events, self._workers)
        return means

    def finish_epoch(self, epoch, train_means, events):
        """Validates and saves a trained epoch; returns its row of history.csv."""
        plan = self._plan
        with state.averaged_weights(self._model):
            validation_means = self._validation.means()
            self._check_finite("validation", validation_means)
            row = _row(self._model, epoch, train_means, validation_means, self._saver.seconds())
            self._history.rows.append(row)
            has_pictures = (epoch + 1) % plan.picture_every == 0 or epoch + 1 == plan.epochs
            images = self._validation.images if has_pictures else None
            self._points.after_epoch(events, validation_means, images, self._images.event_shape)
        self._progress.after_epoch(row)
        self._saver.after_epoch(events, self._workers)
        return row

    def _check_finite(self, split, means):
        """Raises a UserError if a mean of "training" or "validation", or a weight in validation, is not finite."""
        problem = diagnosis.not_finite(self._model, split, means)
        if not problem:
            return
        if self._workers.count == 1:  # All workers would have to repeat the steps together.
            saved = self._saver.saved_values
            problem = diagnosis.first_bad_step(self._model, self._train_images, self._plan, saved) or problem
        raise UserError(diagnosis.message(problem, self._run))


def _row(model, epoch, train_means, validation_means, seconds):
    """The row of history.csv."""
    return {
        "epoch": epoch + 1.0,
        "step": float(model.num_steps),
        "train_iwae_bound": train_means["iwae_bound"],
        "validation_iwae_bound": validation_means["iwae_bound"],
        "train_elbo": train_means["elbo"],
        "validation_elbo": validation_means["elbo"],
        "learning_rate": float(model.optimizer.learning_rate),
        "seconds": seconds,
    }
