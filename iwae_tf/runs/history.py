"""The format of history.csv: one row per epoch."""

import csv
import math

from iwae_tf.errors import UserError
from iwae_tf.runtime import files

HISTORY_COLUMNS = (
    "epoch",
    "step",
    "train_iwae_bound",
    "validation_iwae_bound",
    "train_elbo",
    "validation_elbo",
    "learning_rate",
    "seconds",
)


def read_history(path):
    """Returns the rows of a history.csv, dictionaries of floats; none if there is no such file.

    Raises:
      UserError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(row[name]) for name in HISTORY_COLUMNS} for row in csv.DictReader(file)]
        wrong = [value for row in rows for value in row.values() if not math.isfinite(value)]
        if wrong:
            raise ValueError(f"it holds {wrong[0]}")
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"Cannot read {path} ({error}); remove it, it will be written again.") from error
    return rows


def write_history(path, rows):
    """Writes a history.csv, replacing the old one."""
    lines = [",".join(HISTORY_COLUMNS)]
    lines += [",".join(f"{row[name]:.9g}" for name in HISTORY_COLUMNS) for row in rows]
    files.write_atomically(path, ("\n".join(lines) + "\n").encode())
