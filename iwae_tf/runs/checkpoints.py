"""Checkpoints: one file of arrays each, which is there whole or not at all, of which the last few are kept.

They hold numbers only: reading one executes nothing, whoever wrote it.
"""

import re
import sys
from iwae_tf.errors import UserError
import numpy as np
from iwae_tf.runtime import files

_KEPT = 3
_NAME = re.compile(r"ckpt-(\d+)\.npz")


def steps(folder):
    """The steps of the checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def save(folder, step, arrays):
    """Writes the checkpoint of a step, and removes all but the last few.

    Args:
      folder: a path; made if it is not there.
      step: finished steps.
      arrays: name -> array.
    """
    folder.mkdir(exist_ok=True)
    files.write_arrays(path(folder, step), arrays, compress=False)
    # Later ones are there only if they are damaged.
    before = [other for other in steps(folder) if other < step]
    for old in set(steps(folder)) - {step, *before[1 - _KEPT :]}:
        path(folder, old).unlink(missing_ok=True)


def read_last(folder, shapes):
    """Reads the last checkpoint that is undamaged; what is wrong with later ones goes to standard error.

    Args:
      folder: a path.
      shapes: name -> shape of what every checkpoint has, with None for any length; others may be there, too.

    Returns:
      Its arrays, name -> array, or None where there is no checkpoint at all.

    Raises:
      UserError: every checkpoint is damaged, or of another model.
    """
    found = steps(folder)
    for step in reversed(found):
        arrays = files.read_arrays(path(folder, step))
        reason = _reason_against(arrays, shapes)
        if not reason:
            return arrays
        if step != found[0]:
            print(f"iwae_tf: {path(folder, step)} {reason}; trying the one before", file=sys.stderr)
    if found:
        raise UserError(f"No checkpoint in {folder} can be read (the first {reason}); start anew with --overwrite.")
    return None


def _reason_against(arrays, shapes):
    if arrays is None:
        return "is damaged"
    wrong = [name for name, shape in shapes.items() if name not in arrays or not _fits(arrays[name].shape, shape)]
    if wrong:
        return f"is of another model (see {wrong[0]})"
    # Text and objects are no numbers.
    wrong = [name for name, array in arrays.items() if array.dtype.kind not in "biuf" or not np.isfinite(array).all()]
    return f"is damaged (see {wrong[0]})" if wrong else ""


def _fits(found, expected):
    return len(found) == len(expected) and all(b in (None, a) for a, b in zip(found, expected, strict=True))


def path(folder, step):
    """The file of a step's checkpoint."""
    return folder / f"ckpt-{step}.npz"
