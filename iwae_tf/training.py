"""Training: `keras.Model.fit` over a schedule, with checkpoints, event files and progress.

`train_step` of the model is the only definition of a step. What makes it fast is `compiled_steps`: many steps run in
one compiled call, which draws its batches from images that lie in memory.
"""

import contextlib
import dataclasses
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import binarization, evaluation, figures, noise, progress, schedules
from iwae_tf.errors import UserError

# Steps between two points of the training curves in TensorBoard, about.
_STEPS_PER_POINT = 200
# One compiled call should last about a second at most, so that progress and Ctrl-C are served, but not much less: each
# call allocates its memory anew, which at k = 50 and batch 100 costs as much as half a step. Operations in a call:
_OPERATIONS_PER_CALL = 1e11
_VALIDATION_BATCH = 100
_PICTURE_IMAGES = 100
_CHECKPOINTS_KEPT = 2
SCHEDULES = ("cosine", "paper")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
      schedule: "cosine" over `epochs`, or "paper" for the paper's stages.
      epochs: passes over the training images.
      learning_rate: the rate at the start.
      batch_size: images per step; what is left over at the end of an epoch is dropped.
      adam_epsilon: Adam's epsilon.
      ema_momentum: momentum of the weights' average over the steps, 0 for no averaging; it is lowered where it
        would average over more than a tenth of the training.
      picture_every: epochs between pictures and active units in the event files.
      jit: whether to compile with XLA.
    """

    schedule: str = "cosine"
    epochs: int = 100
    learning_rate: float = 3e-3
    batch_size: int = 100
    adam_epsilon: float = 1e-4
    ema_momentum: float = 0.999
    picture_every: int = 10
    jit: bool = True

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}, but must be one of {', '.join(SCHEDULES)}.")

    def steps_per_epoch(self, num_images):
        """Full batches in `num_images` images."""
        if self.batch_size > num_images:
            raise UserError(f"--batch_size={self.batch_size} is more than the {num_images} training images.")
        return num_images // self.batch_size

    def optimizer(self, steps_per_epoch):
        """Returns the paper's Adam [arXiv:1509.00519, section 5] with this plan's learning rates and averaging."""
        if self.schedule == "cosine":
            rates = schedules.CosineSchedule(self.learning_rate, self.epochs * steps_per_epoch)
        else:
            rates = schedules.PaperSchedule(self.learning_rate, steps_per_epoch)
        # An average over more than a tenth of a short training would lag behind it.
        momentum = min(self.ema_momentum, 1.0 - 10.0 / max(self.epochs * steps_per_epoch, 10))
        averaging = {"use_ema": True, "ema_momentum": momentum} if self.ema_momentum else {}
        return keras.optimizers.Adam(rates, beta_1=0.9, beta_2=0.999, epsilon=self.adam_epsilon, **averaging)


def prepare(model, plan, steps_per_epoch=1):
    """Gives the model its optimizer and creates all variables, so that checkpoints can be restored."""
    model(tf.zeros([1, model.generative.event_size]))
    model.compile(optimizer=plan.optimizer(steps_per_epoch), jit_compile=plan.jit)
    model.optimizer.build(model.trainable_variables)


def train(model, images, plan, run, continue_training=True):
    """Trains a model, continuing from the run's last checkpoint if there is one.

    Afterwards the model holds the weights to evaluate: the average where the plan has one.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      images: `datasets.Images`.
      plan: a `Plan`.
      run: the claimed `runs.RunDirectory`.
      continue_training: if False, only restores what was trained so far.

    Returns:
      A dictionary: steps, epochs, seconds spent in training, examples_per_second, and whether the run was resumed.

    Raises:
      UserError: no full batch, nothing trained, a damaged checkpoint, or a bound that is not finite.
    """
    steps_per_epoch = plan.steps_per_epoch(len(images.train))
    prepare(model, plan, steps_per_epoch)
    first_epoch = restore(model, run) // steps_per_epoch
    rows = [row for row in run.read_history() if row["epoch"] <= first_epoch]
    if continue_training and first_epoch < plan.epochs:
        run.discard_results()
        fit(model, images, plan, run, rows, first_epoch, plan.epochs)
    use_averages(model)
    steps = int(model.optimizer.iterations)
    if not steps:
        raise UserError(f"{run.path} has no checkpoint, so there is no trained model: leave out --notrain.")
    seconds = rows[-1]["seconds"] if rows else 0.0
    return {
        "steps": steps,
        "epochs": steps // steps_per_epoch,
        "seconds": seconds,
        "examples_per_second": steps * plan.batch_size / seconds if seconds else 0.0,
        "resumed": 0 < first_epoch < plan.epochs,
    }


def fit(model, images, plan, run, rows, first_epoch, last_epoch):
    """Runs the epochs from `first_epoch` up to `last_epoch` of a prepared model.

    Args:
      model: an `ImportanceWeightedAutoencoder` after `prepare` and perhaps `restore`; it is compiled once.
      images: `datasets.Images`.
      plan: a `Plan`.
      run: the claimed `runs.RunDirectory`.
      rows: the history of the epochs before; it grows.
      first_epoch: epochs that are finished.
      last_epoch: epochs that will be finished afterwards.
    """
    validation = binarization.fixed_binarization(images.validation, "validation")
    num_steps = _steps_per_call(model, plan.batch_size)
    calls_per_epoch = -(-plan.steps_per_epoch(len(images.train)) // num_steps)
    model.train_function = model.train_function or compiled_steps(model, tf.constant(images.train))
    model.fit(
        _calls(len(images.train), plan, model.seed, first_epoch, num_steps),
        initial_epoch=first_epoch,
        epochs=last_epoch,
        steps_per_epoch=calls_per_epoch,
        callbacks=[
            Validation(validation),
            History(run, rows),
            Events(run, validation, images.image_shape, plan, num_steps),
            Progress(first_epoch, plan.epochs, calls_per_epoch),
            Checkpoints(run),
        ],
        shuffle=False,
        verbose=0,
    )


def compiled_steps(model, images):
    """Returns a train function for `fit` that runs many of the model's train steps in one compiled call.

    The elements that `fit` gives it are (order, start, stop): the images of each step of the epoch, int32
    [steps_per_epoch, batch], and the steps to run. Shapes never change and the loop's bounds are tensors, so it is
    compiled once. (`for step in tf.range(start, stop)` would be compiled anew for every pair of bounds.)

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      images: uint8 tensor [num_images, event].

    Returns:
      A function from an iterator over such elements to the running means of the model's metrics.
    """

    @tf.function(jit_compile=model.jit_compile)
    def run_steps(order, start, stop):
        def one_step(step):
            key = noise.key(model.seed, "binarization", model.optimizer.iterations)
            model.train_step(binarization.binarize(tf.gather(images, order[step]), key))
            return [step + 1]

        tf.while_loop(lambda step: step < stop, one_step, [start])
        return model.get_metrics_result()

    return lambda iterator: run_steps(*next(iterator))


def _steps_per_call(model, batch_size):
    """Training steps in one compiled call, at most those between two points of the curves."""
    num_weights = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    per_step = 6 * num_weights * model.num_samples * batch_size
    return int(np.clip(_OPERATIONS_PER_CALL / per_step, 1, _STEPS_PER_POINT))


def _calls(num_images, plan, seed, first_epoch, num_steps):
    """The elements for `compiled_steps`, from `first_epoch` on: every epoch has its own random order."""
    steps = plan.steps_per_epoch(num_images)

    def one_epoch(epoch):
        order = noise.permutation(num_images, noise.key(seed, "order", epoch))
        order = tf.reshape(order[: steps * plan.batch_size], [steps, plan.batch_size])
        starts = tf.data.Dataset.range(0, steps, num_steps, output_type=tf.int32)
        return starts.map(lambda start: (order, start, tf.minimum(start + num_steps, steps)))

    return tf.data.Dataset.range(first_epoch, plan.epochs).flat_map(one_epoch)


def _checkpoint_manager(model, run):
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    return tf.train.CheckpointManager(checkpoint, str(run.checkpoints), max_to_keep=_CHECKPOINTS_KEPT)


def restore(model, run):
    """Restores a prepared model and its optimizer from the run's last checkpoint that is undamaged.

    Returns:
      The number of finished steps; 0 if there is no checkpoint.

    Raises:
      UserError: all checkpoints are damaged, or of another model.
    """
    checkpoint = _checkpoint_manager(model, run).checkpoint
    paths = sorted(run.checkpoints.glob("ckpt-*.index"), key=lambda path: int(path.stem.removeprefix("ckpt-")))
    for path in reversed(paths):
        prefix = path.with_suffix("")
        try:
            checkpoint.restore(str(prefix)).assert_existing_objects_matched()
            return int(model.optimizer.iterations)
        except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
            reason = str(error).splitlines()[0]
            print(f"iwae_tf: cannot restore {prefix} ({reason}); trying the one before", file=sys.stderr)
    if paths:
        raise UserError(f"No checkpoint in {run.checkpoints} can be restored; start anew with --overwrite.")
    return 0


def use_averages(model):
    """Replaces the weights by their averages over training, if the optimizer keeps any."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


@contextlib.contextmanager
def _averaged_weights(model):
    """Within the context the model has the weights that `use_averages` would give it."""
    weights = [variable.numpy() for variable in model.trainable_variables]
    use_averages(model)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)


class Validation(keras.callbacks.Callback):
    """Adds the bounds of the validation images to the epoch's logs: fixed binarisation, noise and averaged weights."""

    def __init__(self, binary):
        super().__init__()
        batches = tf.data.Dataset.from_tensor_slices(binary).batch(_VALIDATION_BATCH)
        self._data = batches.enumerate().map(lambda index, x: (x, tf.cast(index, tf.int32))).cache()

    def on_epoch_end(self, epoch, logs):
        # evaluate() starts the metrics anew; fit() has read them and does so itself at the start of the next epoch.
        with _averaged_weights(self.model):
            measured = self.model.evaluate(self._data, verbose=0, return_dict=True)
        logs.update({f"validation_{name}": value for name, value in measured.items()})
        for name in ("iwae_bound", "elbo"):
            if not np.isfinite(measured[name]):
                raise UserError(
                    f"The validation {name} became {measured[name]} in epoch {epoch + 1}: try a smaller "
                    "--learning_rate with --overwrite; the last checkpoint is from before."
                )


class History(keras.callbacks.Callback):
    """Adds the epoch's row to history.csv; `rows` holds those of the epochs before and grows.

    `seconds` counts the time spent in training, interrupted or not, with validation and pictures.
    """

    def __init__(self, run, rows):
        super().__init__()
        self._run = run
        self._rows = rows
        self._seconds_before = rows[-1]["seconds"] if rows else 0.0

    def on_train_begin(self, logs=None):
        self._start = time.monotonic()

    def on_epoch_end(self, epoch, logs):
        self._rows.append(
            {
                "epoch": epoch + 1,
                "step": int(self.model.optimizer.iterations),
                "train_iwae_bound": logs["iwae_bound"],
                "validation_iwae_bound": logs["validation_iwae_bound"],
                "train_elbo": logs["elbo"],
                "validation_elbo": logs["validation_elbo"],
                "learning_rate": float(self.model.optimizer.learning_rate),
                "seconds": self._seconds_before + time.monotonic() - self._start,
            }
        )
        self._run.write_history(self._rows)


class Events(keras.callbacks.Callback):
    """Writes TensorBoard event files; the x axis is `optimizer.iterations`.

    train/: the training curves, each point the mean over the steps since the last one.
    validation/: the same quantities once an epoch, and pictures and active units every few epochs.
    """

    def __init__(self, run, binary, image_shape, plan, steps_per_call):
        super().__init__()
        self._run = run
        self._plan = plan
        self._image_shape = image_shape
        self._binary = binary
        self._calls_per_point = max(1, _STEPS_PER_POINT // steps_per_call)

    def on_train_begin(self, logs=None):
        self._train = tf.summary.create_file_writer(str(self._run.train_events))
        self._validation = tf.summary.create_file_writer(str(self._run.validation_events))

    def on_train_end(self, logs=None):
        self._train.close()
        self._validation.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self._point_start = int(self.model.optimizer.iterations)
        self._sums_at_point = {}

    def on_train_batch_end(self, batch, logs):
        if (batch + 1) % self._calls_per_point == 0:
            self._write_point(logs)

    def on_epoch_end(self, epoch, logs):
        validation = {
            name.removeprefix("validation_"): value for name, value in logs.items() if name.startswith("validation_")
        }
        step = int(self.model.optimizer.iterations)
        if step > self._point_start:
            self._write_point({name: logs[name] for name in validation})
        with self._validation.as_default(step):
            _write_scalars(validation)
            if (epoch + 1) % self._plan.picture_every == 0 or epoch + 1 == self._plan.epochs:
                with _averaged_weights(self.model):
                    self._write_pictures()
        self._train.flush()
        self._validation.flush()

    def _write_point(self, running_means):
        """Writes the means since the last point; the metrics themselves are means since the epoch's start."""
        step = int(self.model.optimizer.iterations)
        sums = {name: float(mean) * (step - self._epoch_start) for name, mean in running_means.items()}
        num_steps = step - self._point_start
        means = {name: (sums[name] - self._sums_at_point.get(name, 0.0)) / num_steps for name in sums}
        self._point_start, self._sums_at_point = step, sums
        with self._train.as_default(step):
            _write_scalars(means)
            tf.summary.scalar("learning_rate", self.model.optimizer.learning_rate)

    def _write_pictures(self):
        samples = evaluation.sample_means(self.model, _PICTURE_IMAGES, self._image_shape)
        pairs = evaluation.reconstruction_pairs(self.model, self._binary, self._image_shape)
        for tag, stack in (("samples", samples), ("reconstructions", pairs)):
            tf.summary.image(tag, figures.image_grid(stack, columns=10)[np.newaxis, :, :, np.newaxis])
        for layer, count in enumerate(evaluation.active_units(self.model, self._binary), start=1):
            tf.summary.scalar(f"active_units/layer_{layer}", count)


def _write_scalars(values):
    for name, value in values.items():
        tf.summary.scalar(name.replace("rate_layer", "rate/layer"), value)


class Progress(keras.callbacks.Callback):
    """Prints a line an epoch, and on a terminal the state within the epoch too."""

    def __init__(self, first_epoch, num_epochs, calls_per_epoch):
        super().__init__()
        self._first_epoch = first_epoch
        self._num_epochs = num_epochs
        self._calls_per_epoch = calls_per_epoch
        self._line = progress.StatusLine()

    def on_train_begin(self, logs=None):
        self._start = time.monotonic()
        self._line.keep(f"training epochs {self._first_epoch + 1} to {self._num_epochs}; compiling takes some seconds")

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs):
        done = (batch + 1) / self._calls_per_epoch
        self._line.update(lambda: self._text(self._epoch, done, f"train {logs['iwae_bound']:8.2f} nats ({done:.0%})"))

    def on_epoch_end(self, epoch, logs):
        bounds = f"train {logs['iwae_bound']:8.2f}  validation {logs['validation_iwae_bound']:8.2f} nats"
        self._line.keep(self._text(epoch, 1.0, bounds))

    def _text(self, epoch, done, bounds):
        epochs_done = epoch + done
        per_epoch = (time.monotonic() - self._start) / (epochs_done - self._first_epoch)
        left = progress.duration(per_epoch * (self._num_epochs - epochs_done))
        return f"epoch {epoch + 1:{len(str(self._num_epochs))}}/{self._num_epochs}  {bounds}  {left} left"


class Checkpoints(keras.callbacks.Callback):
    """Saves weights, averages and optimizer after every epoch. It comes last: what is saved is written."""

    def __init__(self, run):
        super().__init__()
        self._run = run

    def on_train_begin(self, logs=None):
        self._manager = _checkpoint_manager(self.model, self._run)

    def on_epoch_end(self, epoch, logs=None):
        self._manager.save(checkpoint_number=epoch + 1)
