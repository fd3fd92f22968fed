"""Training: the epochs over a schedule, with checkpoints, event files and progress.

`train_step` of the model is the only definition of a step. What makes it fast is `compiled_steps`: many steps run in
one compiled call, which draws its batches from images that lie in memory. Everything random is keyed by the step, and a
checkpoint holds whatever else decides how it goes on: a run that was killed ends as if it had not been.
"""

import functools

import numpy as np
import tensorflow as tf

from iwae_tf.datasets import binarization
from iwae_tf.errors import UserError
from iwae_tf.runtime import distribute
from iwae_tf.training import batches, progress, saving, state
from iwae_tf.training import events as event_files
from iwae_tf.training.validation import Validation

# One compiled call should last about a second at most, so that progress and signals are served, but not much less: each
# call allocates its memory anew, which at k = 50 and batch 100 costs as much as half a step. Operations in a call:
_OPERATIONS_PER_CALL = 1e11


def train(model, images, plan, run, continue_training=True):
    """Trains a model, continuing from the run's last checkpoint if there is one.

    Afterwards the model holds the weights to evaluate: the average where the plan has one.

    Args:
      model: an `ImportanceWeightedAutoencoder`; under a `tf.distribute` strategy every worker calls this.
      images: `datasets.Images`.
      plan: a `Plan`.
      run: the claimed `runs.RunDirectory`, or None for the workers that read and write nothing: all but the chief.
      continue_training: if False, only restores what was trained so far.

    Returns:
      A dictionary: steps, epochs, seconds spent in training, examples_per_second, and whether the run was resumed.

    Raises:
      UserError: no full batch, nothing trained, damaged checkpoints, or a bound or weights that are not finite.
      signals.Interrupted: a signal asked to stop, and the training so far is saved.
    """
    steps_per_epoch = plan.steps_per_epoch(len(images.train))
    state.prepare(model, plan, steps_per_epoch)
    record = state.restore(model, run)
    begun = model.num_steps
    if run and begun:
        run.write_history(record.rows)  # The checkpoint's: cut back to it, and whole whatever became of the file.
    total = plan.epochs * steps_per_epoch
    if continue_training and begun < total:
        if run:
            run.discard_results()
        for _ in train_epochs(model, images, plan, run, record):
            pass
    state.use_averages(model)
    steps = model.num_steps
    if not steps:
        raise UserError("The run has no checkpoint, so there is no trained model: leave out --notrain.")
    return {
        "steps": steps,
        "epochs": steps // steps_per_epoch,
        "seconds": record.seconds,
        "examples_per_second": steps * plan.batch_size / record.seconds if record.seconds else 0.0,
        "resumed": 0 < begun < total,
    }


def train_epochs(model, images, plan, run, record):
    """Trains a prepared model epoch by epoch, from where it is to the end of the plan.

    Args:
      model: an `ImportanceWeightedAutoencoder` after `prepare` and perhaps `restore`.
      images: `datasets.Images`.
      plan: a `Plan`.
      run: as for `train`.
      record: the `history.History` of the training so far, which grows.

    Yields:
      The row of history.csv of each epoch, as soon as it is saved.

    Raises:
      See `train`.
    """
    workers = distribute.Workers(model.distribute_strategy)
    steps = plan.steps_per_epoch(len(images.train))
    run_steps_with = functools.cache(functools.partial(batches.compiled_steps, model, tf.constant(images.train)))
    validation = Validation(model, binarization.fixed_binarization(images.validation, "validation"))
    points = event_files.Points(model, record)
    saver = saving.Saver(model, run, plan, record)
    line = progress.Progress(model.num_steps / steps, [plan.num_samples(epoch, model) for epoch in range(plan.epochs)])
    with event_files.events(run) as events:
        for epoch in range(model.num_steps // steps, plan.epochs):
            first = model.num_steps % steps
            if not first:
                model.reset_metrics()
                points.begin_epoch()
            order = batches.epoch_order(len(images.train), plan, model.seed, epoch)
            num_samples = plan.num_samples(epoch, model)
            run_steps, num_steps = run_steps_with(num_samples), _steps_per_call(model, plan.batch_size, num_samples)
            for start in range(first, steps, num_steps):
                stop = min(start + num_steps, steps)
                means = {name: float(mean) for name, mean in run_steps(order, start, stop).items()}
                saver.refuse_trouble("training", means, images.train, plan)
                points.after_call(events, means, stop, num_steps, is_last=stop == steps)
                line.within_epoch(epoch, stop / steps, means)
                if stop < steps:
                    saver.within_epoch(events, workers)
            with state.averaged_weights(model):
                measured = validation.means()
                saver.refuse_trouble("validation", measured, images.train, plan)
                row = _row(model, epoch, means, measured, saver.seconds())
                record.rows.append(row)
                drawn = (epoch + 1) % plan.picture_every == 0 or epoch + 1 == plan.epochs
                points.after_epoch(events, measured, validation.images if drawn else None, images.image_shape)
            line.after_epoch(row)
            saver.after_epoch(events, workers)
            yield row


def _steps_per_call(model, batch_size, num_samples):
    """Training steps in one compiled call, at most those between two points of the curves."""
    num_weights = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    per_step = 6 * num_weights * num_samples * batch_size
    return int(np.clip(_OPERATIONS_PER_CALL / per_step, 1, event_files.STEPS_PER_POINT))


def _row(model, epoch, means, measured, seconds):
    """The row of history.csv."""
    return {
        "epoch": epoch + 1.0,
        "step": float(model.num_steps),
        "train_iwae_bound": means["iwae_bound"],
        "validation_iwae_bound": measured["iwae_bound"],
        "train_elbo": means["elbo"],
        "validation_elbo": measured["elbo"],
        "learning_rate": float(model.optimizer.learning_rate),
        "seconds": seconds,
    }
