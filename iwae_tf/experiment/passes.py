"""The passes over images of which an evaluation consists, and what is kept of one that is interrupted."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from iwae_tf.datasets import binarization
from iwae_tf.evaluation import log_likelihood
from iwae_tf.experiment import options
from iwae_tf.runtime import files, progress

_SECONDS_BETWEEN_WRITES = 60.0


class Pass(NamedTuple):
    """Images that are measured together.

    Attributes:
      name: what they are, in words.
      num_images: how many.
      draw: a function that returns them, float array [num_images, event] of zeros and ones.
      num_k_hats: how many of them, the first ones, get a k-hat.
    """

    name: str
    num_images: int
    draw: Callable[[], np.ndarray]
    num_k_hats: int = 0


def evaluation_passes(flags, images):
    """The passes that these flags ask for.

    Args:
      flags: as `options.parse` returns them.
      images: `datasets.Images`.

    Returns:
      A list of `Pass`es: the test images in the binarisation that every run has, then in the others, one for each
      further seed, and then training images.
    """

    def drawn(stack, split, seed=binarization.FIXED_BINARIZATION_SEED):
        return functools.partial(binarization.fixed_binarization, stack, split, seed)

    test, train = images.test, images.train[: flags.train_nll_images]
    found = [Pass("test images", len(test), drawn(test, "test"), flags.khat_images)]
    for seed in range(1, flags.binarization_seeds):
        found.append(Pass(f"test images of binarisation {seed}", len(test), drawn(test, "test", seed)))
    if len(train):
        found.append(Pass("training images", len(train), drawn(train, "train")))
    return found


def measure_passes(flags, model, wanted, trained, run, workers):
    """Measures the bounds of all passes; begins where an interrupted evaluation of the same was.

    Args:
      flags: as `options.parse` returns them.
      model: the trained `ImportanceWeightedAutoencoder`.
      wanted: what `evaluation_passes` returned.
      trained: as `training.train` returns it.
      run: the claimed `runs.RunDirectory`, to which the chief writes.
      workers: `distribute.Workers`, all of which call this.

    Returns:
      The `evaluation.SplitBounds` of each pass.

    Raises:
      signals.Interrupted: a signal asked to stop, and what is finished is saved.
    """
    kept = UnfinishedEvaluation(flags, trained, wanted, run if workers.is_chief else None)
    try:
        return [_measure_pass(flags, model, one, kept, i, workers) for i, one in enumerate(wanted)]
    finally:
        kept.write()


def _measure_pass(flags, model, one, kept, index, workers):
    begun = kept.bounds[index]
    num_begun = workers.any(len(begun))
    if num_begun:
        begun.values = workers.from_chief(
            begun.values if workers.is_chief else np.zeros([len(begun.values), num_begun])
        )
        print(f"{num_begun:,} of the {one.num_images:,} {one.name} were measured before")
    if num_begun == one.num_images:
        return begun
    kept.begin(index)
    report = kept.report if workers.is_chief else None
    return log_likelihood.evaluate_images(
        model, one.draw(), flags.nll_samples, num_k_hats=one.num_k_hats, report=report, begun=begun
    )


class UnfinishedEvaluation:
    """Reports an evaluation, and keeps what is finished of it.

    Args:
      flags: as `options.parse` returns them.
      trained: as `training.train` returns it.
      wanted: the `Pass`es.
      run: the run to read from and write to, or None.

    Attributes:
      bounds: what is finished of each pass, `evaluation.SplitBounds`, perhaps of no image.
    """

    def __init__(self, flags, trained, wanted, run):
        self._num_samples, self._k = flags.nll_samples, options.num_samples(flags)
        # What makes two evaluations the same; the flags of the run itself cannot change. Sizes alone would not tell a
        # pass over training images from one over as many test images.
        asked = [getattr(flags, name) for name in options.EVALUATION_FLAGS]
        self._of = np.array([trained["steps"], *asked, *(one.num_images for one in wanted)])
        self._run = run
        self._passes = wanted
        self._current = 0
        self.bounds = self._read()
        self._written = time.monotonic()

    def _nothing(self):
        return log_likelihood.SplitBounds(self._num_samples, self._k)

    def _read(self):
        arrays = files.read_arrays(self._run.unfinished_evaluation) if self._run else None
        if arrays is None or not np.array_equal(arrays.get("of"), self._of):
            return [self._nothing() for _ in self._passes]
        return [self._checked(one, arrays.get(f"values_{i}")) for i, one in enumerate(self._passes)]

    def _checked(self, one, values):
        """The bounds with values that a file holds; of no image if they are not what was written."""
        nothing = self._nothing()
        if values is None or values.dtype != np.float64 or values.ndim != 2:
            return nothing
        if len(values) != len(nothing.values) or values.shape[1] > one.num_images:
            return nothing
        found = log_likelihood.SplitBounds(self._num_samples, self._k, values)
        return found if found.finite.all() else nothing

    def begin(self, index):
        """A pass begins."""
        self._current = index
        one = self._passes[index]
        missing = [other.num_images - len(bounds) for other, bounds in zip(self._passes, self.bounds, strict=True)]
        self._countdown = progress.Countdown(one.num_images, len(self.bounds[index]), sum(missing[index + 1 :]))
        if self._run:
            print(f"evaluating {one.num_images:,} {one.name} with {self._num_samples:,} samples each", flush=True)

    def report(self, bounds):
        """Shows the mean so far and the time that all passes have left; writes once in a while."""
        self.bounds[self._current] = bounds
        self._countdown.update(len(bounds), f"NLL {-bounds.log_likelihoods.mean():.2f} nats")
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self):
        """Writes what is finished."""
        if self._run and any(map(len, self.bounds)):
            self._written = time.monotonic()
            values = {f"values_{i}": bounds.values for i, bounds in enumerate(self.bounds)}
            files.write_arrays(self._run.unfinished_evaluation, {"of": self._of, **values}, compress=False)
