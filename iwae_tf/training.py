"""Training: the epochs over a schedule, with checkpoints, event files and progress.

`train_step` of the model is the only definition of a step. What makes it fast is `compiled_steps`: many steps run in
one compiled call, which draws its batches from images that lie in memory. Everything random is keyed by the step, and a
checkpoint holds whatever else decides how it goes on: a run that was killed ends as if it had not been.
"""

import contextlib
import dataclasses
import functools
import math
import time

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import binarization, checkpoints, curves, interruption, noise, progress, replicas, schedules
from iwae_tf.errors import UserError

# One compiled call should last about a second at most, so that progress and signals are served, but not much less: each
# call allocates its memory anew, which at k = 50 and batch 100 costs as much as half a step. Operations in a call:
_OPERATIONS_PER_CALL = 1e11
_VALIDATION_BATCH = 100
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


def prepare(model, plan, steps_per_epoch=1):
    """Gives the model its optimizer and creates all variables, so that checkpoints can be restored."""
    with model.distribute_strategy.scope():
        model(tf.zeros([1, model.generative.event_size]))
        model.compile(optimizer=plan.optimizer(steps_per_epoch), jit_compile=plan.jit)
        model.optimizer.build(model.trainable_variables)


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
      interruption.Interrupted: a signal asked to stop, and the training so far is saved.
    """
    steps_per_epoch = plan.steps_per_epoch(len(images.train))
    prepare(model, plan, steps_per_epoch)
    record = restore(model, run)
    begun = model.num_steps
    if run and begun:
        run.write_history(record.rows)  # The checkpoint's: cut back to it, and whole whatever became of the file.
    total = plan.epochs * steps_per_epoch
    if continue_training and begun < total:
        if run:
            run.discard_results()
        for _ in epochs(model, images, plan, run, record):
            pass
    use_averages(model)
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


def epochs(model, images, plan, run, record):
    """Trains a prepared model epoch by epoch, from where it is to the end of the plan.

    Args:
      model: an `ImportanceWeightedAutoencoder` after `prepare` and perhaps `restore`.
      images: `datasets.Images`.
      plan: a `Plan`.
      run: as for `train`.
      record: the `curves.Record` of the training so far, which grows.

    Yields:
      The row of history.csv of each epoch, as soon as it is saved.

    Raises:
      See `train`.
    """
    workers = replicas.Workers(model.distribute_strategy)
    steps = plan.steps_per_epoch(len(images.train))
    run_steps_with = functools.cache(functools.partial(compiled_steps, model, tf.constant(images.train)))
    validation = Validation(model, binarization.fixed_binarization(images.validation, "validation"))
    points = curves.Points(model, record)
    saver = Saver(model, run, plan, record)
    line = Progress(model.num_steps / steps, [plan.num_samples(epoch, model) for epoch in range(plan.epochs)])
    with curves.events(run) as events:
        for epoch in range(model.num_steps // steps, plan.epochs):
            first = model.num_steps % steps
            if not first:
                model.reset_metrics()
                points.begin_epoch()
            order = epoch_order(len(images.train), plan, model.seed, epoch)
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
            with averaged_weights(model):
                measured = validation.means()
                saver.refuse_trouble("validation", measured, images.train, plan)
                row = _row(model, epoch, means, measured, saver.seconds())
                record.rows.append(row)
                drawn = (epoch + 1) % plan.picture_every == 0 or epoch + 1 == plan.epochs
                points.after_epoch(events, measured, validation.images if drawn else None, images.image_shape)
            line.after_epoch(row)
            saver.after_epoch(events, workers)
            yield row


def compiled_steps(model, images, num_samples=None):
    """Returns a function that runs many of the model's train steps in one compiled call.

    Its arguments are (order, start, stop): the images of each step of the epoch, int32 [steps_per_epoch, batch], and
    the steps to run. Shapes never change and the loop's bounds are tensors, so it is compiled once. (`for step in
    tf.range(start, stop)` would be compiled anew for every pair of bounds.)

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: uint8 tensor [num_images, event].
      num_samples: samples per image, if not the model's number.

    Returns:
      A function to the running means of the model's metrics, name -> tensor.
    """

    @tf.function(jit_compile=model.jit_compile)
    def run_steps(order, start, stop):
        def one_step(step):
            model.distribute_strategy.run(lambda: model.train_step(batch(model, images, order[step]), num_samples))
            return [step + 1]

        tf.while_loop(lambda step: step < stop, one_step, [start])
        return model.get_metrics_result()

    return lambda order, start, stop: run_steps(order, tf.constant(start), tf.constant(stop))


def batch(model, images, indices):
    """This replica's share of the images of step `optimizer.iterations`, binarised as they are drawn.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: uint8 tensor [num_images, event].
      indices: int32 [batch], the whole batch.

    Returns:
      Float32 zeros and ones, [batch / replicas, event].
    """
    key = noise.key(model.seed, "binarization", model.optimizer.iterations)
    return replicas.share(binarization.binarize(tf.gather(images, indices), key), axis=0)


def epoch_order(num_images, plan, seed, epoch):
    """The images of each step of an epoch, int32 [steps_per_epoch, batch]: every epoch has its own random order."""
    steps = plan.steps_per_epoch(num_images)
    order = noise.permutation(num_images, noise.key(seed, "order", epoch))
    return tf.reshape(order[: steps * plan.batch_size], [steps, plan.batch_size])


def _steps_per_call(model, batch_size, num_samples):
    """Training steps in one compiled call, at most those between two points of the curves."""
    num_weights = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    per_step = 6 * num_weights * num_samples * batch_size
    return int(np.clip(_OPERATIONS_PER_CALL / per_step, 1, curves.STEPS_PER_POINT))


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


def restore(model, run):
    """Restores a prepared model and its optimizer from the run's last checkpoint that is undamaged.

    Under a strategy the chief reads, and the others, whose run is None, get their values from it.

    Returns:
      The `curves.Record` of the training so far; the model's `optimizer.iterations` tells how far that is.

    Raises:
      UserError: all checkpoints are damaged, or of another model.
    """
    workers = replicas.Workers(model.distribute_strategy)
    state = _state(model)
    found = None
    if run:
        shapes = {name: tuple(variable.shape) for name, variable in state.items()}
        found = checkpoints.read_last(run.checkpoints, {**shapes, **curves.RECORD_SHAPES})
    # All workers read all, for reading a metric's variable adds it up over them.
    values = _values(model) | (found or {})
    for name, variable in state.items():
        variable.assign(workers.from_chief(values[name].astype(variable.dtype)))
    return curves.Record.from_arrays(found) if found else curves.Record()


def _state(model):
    """All variables that decide how a training goes on, name -> variable."""
    groups = {
        "networks": model.variables_of_networks,
        "optimizer": model.optimizer.variables,
        "metrics": [variable for metric in model.metrics for variable in metric.variables],
    }
    return {f"{group}/{i:03}": variable for group, variables in groups.items() for i, variable in enumerate(variables)}


def _values(model):
    """The values of `_state`, name -> array."""
    return {name: variable.numpy() for name, variable in _state(model).items()}


class Saver:
    """Writes the checkpoints: after every epoch, some minutes after the last one, and when a signal asks to stop.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      run: the `runs.RunDirectory` to write to, or None for a worker that writes nothing.
      plan: a `Plan`.
      record: the training's `curves.Record`.
    """

    def __init__(self, model, run, plan, record):
        self._model = model
        self._run = run
        self._minutes = plan.checkpoint_minutes
        self._record = record
        self._seconds_before = record.seconds
        self._start = self._saved = time.monotonic()
        self._good = _values(model)

    def seconds(self):
        """Seconds spent in training, interrupted or not, with validation and pictures."""
        return self._seconds_before + time.monotonic() - self._start

    def within_epoch(self, events, workers):
        """Saves, if it is time to; ends the training if a signal asks for that."""
        signal_number = workers.any(interruption.received() or 0)
        # The chief's clock decides.
        is_time = time.monotonic() - self._saved > 60.0 * self._minutes and workers.is_chief
        if signal_number or workers.any(is_time):
            self._save(events)
        interruption.stop_for(signal_number)

    def after_epoch(self, events, workers):
        """Saves, and ends the training if a signal asks for that."""
        if self._run:
            self._run.write_history(self._record.rows)
        self._save(events)
        interruption.stop_for(workers.any(interruption.received() or 0))

    def _save(self, events):
        """Writes the events first: what is after a checkpoint is written again, what is before it is not."""
        self._saved = time.monotonic()
        self._record.seconds = self.seconds()
        self._good = _values(self._model)
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
        if replicas.Workers(self._model.distribute_strategy).count == 1:
            trouble = self._first_trouble(tf.constant(images), plan, step) or trouble
        raise UserError(_advice(trouble, self._run))

    def _first_trouble(self, images, plan, last_step):
        """Repeats the steps since the last checkpoint one by one, up to the first that goes wrong, and describes it."""
        model = self._model
        for name, variable in _state(model).items():
            variable.assign(self._good[name])

        @tf.function(jit_compile=model.jit_compile)
        def one_step(indices, num_samples):
            def of_replica():
                terms, gradients = model.gradients(batch(model, images, indices), num_samples)
                model.optimizer.apply(gradients, model.trainable_variables)
                bound = tf.reduce_mean(model.objective.generative.value(terms.log_weights))
                return bound, [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]

            return model.distribute_strategy.run(of_replica)

        steps = plan.steps_per_epoch(len(images))
        for step in range(model.num_steps, last_step):
            indices = epoch_order(len(images), plan, model.seed, step // steps)[step % steps]
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


def use_averages(model):
    """Replaces the weights by their averages over training, if the optimizer keeps any."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def averaged_weights(model):
    """Within the context the model has the weights that `use_averages` would give it."""
    weights = [variable.numpy() for variable in model.trainable_variables]
    use_averages(model)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)


class Validation:
    """Measures the validation images: fixed binarisation and fixed noise.

    Under a strategy every replica measures all of them, which costs little and adds nothing up.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      images: float array [num_images, event] of zeros and ones.

    Attributes:
      images: those.
    """

    def __init__(self, model, images):
        self.images = images
        self._model = model
        run = model.distribute_strategy.run
        self._step = tf.function(lambda x, i: run(model.test_step, ((x, i),)), jit_compile=model.jit_compile)

    def means(self):
        """Returns the means of the model's metrics over the images, name -> float."""
        self._model.reset_metrics()
        for index, start in enumerate(range(0, len(self.images), _VALIDATION_BATCH)):
            self._step(tf.constant(self.images[start : start + _VALIDATION_BATCH]), tf.constant(index))
        return {name: float(mean) for name, mean in self._model.get_metrics_result().items()}


class Progress:
    """Prints a line an epoch, and on a terminal the state within the epoch too.

    Args:
      epochs_before: epochs that are trained already, perhaps and a part of one.
      num_samples: samples per image in each epoch.
    """

    def __init__(self, epochs_before, num_samples):
        self._num_epochs = num_epochs = len(num_samples)
        # An epoch's time grows with its samples; what does not is worth about three of them.
        self._ends = np.cumsum([0.0, *(count + 3.0 for count in num_samples)])
        self._before = self._work(epochs_before)
        self._line = progress.StatusLine()
        self._start = time.monotonic()
        first = f"training epochs {int(epochs_before) + 1} to {num_epochs}"
        within = f", from {epochs_before % 1.0:.0%} of the first" if epochs_before % 1.0 else ""
        self._line.keep(f"{first}{within}; compiling takes some seconds")

    def within_epoch(self, epoch, done, means):
        """Reports that a share `done` of an epoch is trained."""
        self._line.update(lambda: self._text(epoch, done, f"train {means['iwae_bound']:8.2f} nats ({done:.0%})"))

    def after_epoch(self, row):
        """Reports the row of an epoch."""
        bounds = f"train {row['train_iwae_bound']:8.2f}  validation {row['validation_iwae_bound']:8.2f} nats"
        self._line.keep(self._text(int(row["epoch"]) - 1, 1.0, bounds))

    def _text(self, epoch, done, bounds):
        finished = self._work(epoch + done)
        seconds = (time.monotonic() - self._start) / (finished - self._before) * (self._ends[-1] - finished)
        left = progress.duration(seconds)
        return f"epoch {epoch + 1:{len(str(self._num_epochs))}}/{self._num_epochs}  {bounds}  {left} left"

    def _work(self, epochs):
        """The work that this many epochs are."""
        return float(np.interp(epochs, np.arange(len(self._ends)), self._ends))
