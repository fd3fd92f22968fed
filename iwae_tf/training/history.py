"""The history of a training run, which its checkpoints hold."""

import dataclasses

import numpy as np

from iwae_tf import runs

_SUMS = "point_sums/"


@dataclasses.dataclass
class History:
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
ARRAY_SHAPES = {"history": (None, len(runs.HISTORY_COLUMNS)), "seconds": (), "point_start": ()}
