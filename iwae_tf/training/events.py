"""TensorBoard's event files.

The x axis is `optimizer.iterations`. train/ holds the training curves, where each point is the mean over the steps
since the previous one; validation/ holds the same quantities once per epoch, and pictures and active units at times.
"""

import contextlib

import tensorflow as tf

from iwae_tf import figures
from iwae_tf.evaluation import units
from iwae_tf.evaluation.samples import as_pictures, reconstruction_pairs, sample_means

# Approximate number of steps between two points of the training curves.
STEPS_PER_POINT = 200
_PICTURE_IMAGES = 100


class _Events:
    """The two event files of a run."""

    def __init__(self, run):
        self.train = tf.summary.create_file_writer(str(run.train_events))
        self.validation = tf.summary.create_file_writer(str(run.validation_events))

    def flush(self):
        self.train.flush()
        self.validation.flush()

    def close(self):
        self.train.close()
        self.validation.close()


@contextlib.contextmanager
def events(run):
    """Opens the event files of a run; yields None if run is None, as in a worker that writes nothing."""
    opened = _Events(run) if run else None
    try:
        yield opened
    finally:
        if opened:
            opened.close()


class Points:
    """Writes the points of the curves.

    Args:
      model: an `ImportanceWeightedAutoencoder`, prepared.
      history: the training's `History`; it holds where the next point of the training curves begins.
    """

    def __init__(self, model, history):
        self._model = model
        self._history = history

    def begin_epoch(self):
        """Starts the first point of an epoch; the metrics must have been reset."""
        self._history.point_start = self._model.num_steps
        self._history.point_sums = {}

    def after_call(self, opened, means, steps_done, steps_per_call, is_last):
        """Writes a point of the training curves if enough steps have passed.

        Args:
          opened: the open event files, or None.
          means: the metrics' means over the epoch so far, name -> float.
          steps_done: steps of the epoch so far.
          steps_per_call: steps between two calls of this function.
          is_last: whether the epoch ends here.
        """
        step = self._model.num_steps
        num_steps = step - self._history.point_start
        if num_steps < steps_per_call * max(1, STEPS_PER_POINT // steps_per_call) and not is_last:
            return
        sums = {name: mean * steps_done for name, mean in means.items()}
        if opened:
            with opened.train.as_default(step):
                before = self._history.point_sums
                _write_scalars({name: (sums[name] - before.get(name, 0.0)) / num_steps for name in sums})
                tf.summary.scalar("learning_rate", self._model.optimizer.learning_rate)
        self._history.point_start, self._history.point_sums = step, sums

    def after_epoch(self, opened, means, images, image_shape):
        """Writes the point of the validation curves and, if there are images, pictures and active units.

        Args:
          opened: the open event files, or None.
          means: the metrics' means over the validation images, name -> float.
          images: validation images to reconstruct and to count active units on, [num_images, event]; or None.
          image_shape: (height, width), (height, width, 3), or (number of columns,).
        """
        if not opened:
            return
        with opened.validation.as_default(self._model.num_steps):
            _write_scalars(means)
            if images is not None:
                if len(image_shape) > 1:  # Not for tables.
                    self._write_pictures(images, image_shape)
                for layer, count in enumerate(units.active_units(self._model, images), start=1):
                    tf.summary.scalar(f"active_units/layer_{layer}", count)

    def _write_pictures(self, images, image_shape):
        samples = sample_means(self._model, _PICTURE_IMAGES, image_shape)
        pairs = reconstruction_pairs(self._model, images, image_shape)
        for tag, stack in (("samples", samples), ("reconstructions", pairs)):
            grid = figures.image_grid(as_pictures(stack, self._model.support), columns=10)
            tf.summary.image(tag, grid.reshape(1, *grid.shape[:2], -1))


def _write_scalars(values):
    for name, value in values.items():
        tf.summary.scalar(name.replace("rate_layer", "rate/layer"), value)
