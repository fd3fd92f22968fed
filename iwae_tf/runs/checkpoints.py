"""Checkpoints: files of arrays, written atomically, of which the last few are kept.

They hold only numbers, so reading one never executes code.
"""

import pathlib
import re
from collections.abc import Mapping

import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.runtime import console, files

_KEPT = 3
_NAME = re.compile(r"ckpt-(\d+)\.npz")


def steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def path(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Returns the file of a step's checkpoint."""
    return folder / f"ckpt-{step}.npz"


def save(folder: pathlib.Path, step: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the checkpoint of a step, and removes all but the last few.

    Args:
      folder: a path; it is created if it does not exist.
      step: finished steps.
      arrays: name -> array.
    """
    folder.mkdir(exist_ok=True)
    files.write_arrays(path(folder, step), arrays, compress=False)
    # Checkpoints of later steps are damaged: otherwise the run would have continued from them.
    before = [other for other in steps(folder) if other < step]
    for old in set(steps(folder)) - {step, *before[1 - _KEPT :]}:
        path(folder, old).unlink(missing_ok=True)


def read_last(folder: pathlib.Path, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, np.ndarray] | None:
    """Reads the last undamaged checkpoint, with a warning on standard error for each later one.

    Args:
      folder: a path.
      shapes: name -> shape of the arrays that a checkpoint must have, where None stands for any length; it may have
        more.

    Returns:
      Its arrays, name -> array, or None if there is no checkpoint.

    Raises:
      UserError: every checkpoint is damaged, or from another model.
    """
    saved = steps(folder)
    for step in reversed(saved):
        arrays = files.read_arrays(path(folder, step))
        wrong = problem(arrays, shapes)
        if not wrong:
            return arrays
        if step != saved[0]:
            console.warn(f"{path(folder, step)} {wrong}; trying the previous one")
    if saved:
        raise UserError(
            f"No checkpoint in {folder} can be read (the oldest {wrong}); overwrite the run to start again."
        )
    return None


def problem(arrays: Mapping[str, np.ndarray] | None, shapes: Mapping[str, tuple[int | None, ...]]) -> str:
    """Returns what is wrong with the arrays of a checkpoint, or "".

    Args:
      arrays: as `files.read_arrays` returns them.
      shapes: as for `read_last`.
    """
    if arrays is None:
        return "is damaged"
    wrong = [name for name, shape in shapes.items() if name not in arrays or not _fits(arrays[name].shape, shape)]
    if wrong:
        return f"is from another model (see {wrong[0]})"
    # A checkpoint holds no text and no objects.
    wrong = [name for name, array in arrays.items() if array.dtype.kind not in "biuf" or not np.isfinite(array).all()]
    return f"is damaged (see {wrong[0]})" if wrong else ""


def _fits(shape, expected):
    return len(shape) == len(expected) and all(size in (None, n) for n, size in zip(shape, expected, strict=True))
