"""What a training leaves on record: the rows of its history, and TensorBoard's event files.

The x axis of the event files is `optimizer.iterations`. train/ has the training curves, each point the mean over the
steps since the last one; validation/ the same quantities once an epoch, and pictures and active units every few.
"""

import contextlib
import dataclasses

import numpy as np
import tensorflow as tf

from iwae_tf import evaluation, figures, runs, units

# Steps between two points of the training curves, about.
STEPS_PER_POINT = 200
_PICTURE_IMAGES = 100
_SUMS = "point_sums/"


@dataclasses.dataclass
class Record:
    """What the curves need of the training so far; a checkpoint holds it.

    Attributes:
      rows: those of history.csv.
      seconds: time spent in training.
      point_start: the step after which the training curves' next point begins.
      point_sums: the metrics' sums from the epoch's start up to there, name -> float.
    """

    rows: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    point_start: int = 0
    point_sums: dict = dataclasses.field(default_factory=dict)

    def to_arrays(self):
        """Returns name -> array."""
        rows = [[row[name] for name in runs.HISTORY_COLUMNS] for row in self.rows]
        return {
            "history": np.reshape(np.array(rows, np.float64), [-1, len(runs.HISTORY_COLUMNS)]),
            "seconds": np.float64(self.seconds),
            "point_start": np.int64(self.point_start),
            **{f"{_SUMS}{name}": np.float64(value) for name, value in self.point_sums.items()},
        }

    @classmethod
    def from_arrays(cls, arrays):
        """Undoes `to_arrays`; arrays of other names are left alone."""
        sums = {name: array for name, array in arrays.items() if name.startswith(_SUMS) and not array.shape}
        return cls(
            rows=[dict(zip(runs.HISTORY_COLUMNS, row, strict=True)) for row in arrays["history"].tolist()],
            seconds=float(arrays["seconds"]),
            point_start=int(arrays["point_start"]),
            point_sums={name.removeprefix(_SUMS): float(array) for name, array in sums.items()},
        )


# The shapes that `Record.from_arrays` needs.
RECORD_SHAPES = {"history": (None, len(runs.HISTORY_COLUMNS)), "seconds": (), "point_start": ()}


class _Events:
    """The two event files of a run."""

    def __init__(self, run):
        self.train = tf.summary.create_file_writer(str(run.train_events))
        self.validation = tf.summary.create_file_writer(str(run.validation_events))

    def flush(self):
        self.train.flush()
        self.validation.flush()


@contextlib.contextmanager
def events(run):
    """The open event files of a run; None for None, a worker that writes nothing."""
    opened = _Events(run) if run else None
    try:
        yield opened
    finally:
        if opened:
            opened.train.close()
            opened.validation.close()


class Points:
    """Writes the points of the curves.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      record: the training's `Record`.
    """

    def __init__(self, model, record):
        self._model = model
        self._record = record

    def begin_epoch(self):
        """The metrics are means from here on."""
        self._record.point_start = self._model.num_steps
        self._record.point_sums = {}

    def after_call(self, opened, means, steps_done, steps_per_call, is_last):
        """Writes a point of the training curves if it is time for one.

        Args:
          opened: the open event files, or None.
          means: the metrics' means over the epoch so far, name -> float.
          steps_done: steps of the epoch so far.
          steps_per_call: those between two calls of this function.
          is_last: whether the epoch ends here.
        """
        step = self._model.num_steps
        num_steps = step - self._record.point_start
        if num_steps < steps_per_call * max(1, STEPS_PER_POINT // steps_per_call) and not is_last:
            return
        sums = {name: mean * steps_done for name, mean in means.items()}
        if opened:
            with opened.train.as_default(step):
                before = self._record.point_sums
                _write_scalars({name: (sums[name] - before.get(name, 0.0)) / num_steps for name in sums})
                tf.summary.scalar("learning_rate", self._model.optimizer.learning_rate)
        self._record.point_start, self._record.point_sums = step, sums

    def after_epoch(self, opened, measured, images, image_shape):
        """Writes the validation curves' point, and perhaps pictures.

        Args:
          opened: the open event files, or None.
          measured: the metrics' means over the validation images, name -> float.
          images: validation images to draw and to count active units on, [num_images, event]; or None.
          image_shape: (height, width).
        """
        if not opened:
            return
        with opened.validation.as_default(self._model.num_steps):
            _write_scalars(measured)
            if images is not None:
                self._write_pictures(images, image_shape)

    def _write_pictures(self, images, image_shape):
        samples = evaluation.sample_means(self._model, _PICTURE_IMAGES, image_shape)
        pairs = evaluation.reconstruction_pairs(self._model, images, image_shape)
        for tag, stack in (("samples", samples), ("reconstructions", pairs)):
            tf.summary.image(tag, figures.image_grid(stack, columns=10)[np.newaxis, :, :, np.newaxis])
        for layer, count in enumerate(units.active_units(self._model, images), start=1):
            tf.summary.scalar(f"active_units/layer_{layer}", count)


def _write_scalars(values):
    for name, value in values.items():
        tf.summary.scalar(name.replace("rate_layer", "rate/layer"), value)
