"""Saves the finished part of an evaluation, so that an interrupted one continues."""

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.runtime import files


class UnfinishedEvaluation:
    """A file with the finished estimates of each pass of an evaluation.

    Args:
      path: the file, or None for a worker that reads and writes nothing.
      evaluation: plain JSON that tells evaluations apart; a file from another evaluation is ignored.
    """

    def __init__(self, path: pathlib.Path | None, evaluation: Mapping[str, Any]):
        self._path = path
        self._key = json.dumps(evaluation, sort_keys=True)
        self._last_write = time.monotonic()

    def read(self, num_images: Mapping[str, int], num_samples: int, k: int) -> dict[str, Estimates]:
        """Returns the finished estimates of each pass; empty ones if the file is missing, damaged or foreign.

        Args:
          num_images: the number of images of each pass.
          num_samples: `Estimates.num_samples`.
          k: `Estimates.k`.
        """
        stored = files.read_arrays(self._path) if self._path else None
        empty = Estimates.zeros(num_samples, k)
        if stored is None or str(stored.get("key")) != self._key:
            return dict.fromkeys(num_images, empty)
        return {name: _checked(empty, stored, name, count) for name, count in num_images.items()}

    def write(self, estimates: Mapping[str, Estimates], seconds_between: float = 0.0) -> None:
        """Writes the finished estimates of each pass, if there are any.

        Args:
          estimates: the finished estimates of each pass.
          seconds_between: the minimum time since the last write; before that, nothing is written.
        """
        due = time.monotonic() - self._last_write >= seconds_between
        if self._path and due and any(map(len, estimates.values())):
            self._last_write = time.monotonic()
            arrays = {
                f"{name}/{array_name}": array
                for name, finished in estimates.items()
                for array_name, array in finished.arrays().items()
            }
            files.write_arrays(self._path, {"key": np.array(self._key), **arrays}, compress=False)


def _checked(empty, stored, name, num_images):
    """Returns the stored estimates of a pass, or `empty` if an array is missing, malformed or not finite."""
    arrays = {array_name: stored.get(f"{name}/{array_name}") for array_name in empty.arrays()}
    sizes = {array.shape[-1] if array is not None and array.ndim else None for array in arrays.values()}
    if len(sizes) != 1 or None in sizes or max(sizes) > num_images:
        return empty
    for array_name, expected in empty.arrays().items():
        array = arrays[array_name]
        if array.dtype != np.float64 or array.shape[:-1] != expected.shape[:-1]:
            return empty
    estimates = empty.with_arrays(arrays)
    return estimates if estimates.finite.all() else empty
