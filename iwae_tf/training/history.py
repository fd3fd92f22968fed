"""The history of a training run, which is part of its checkpoints."""

import dataclasses

import numpy as np

from iwae_tf import runs

_SUMS = "point_sums/"


@dataclasses.dataclass
class History:
    """The past of a training run, as far as history.csv and the event files need it.

    Attributes:
      rows: the rows of history.csv.
      seconds: time spent in training.
      point_start: the step after which the next point of the training curves begins.
      point_sums: the metrics' sums from the start of the epoch to `point_start`, name -> float.
    """

    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    point_start: int = 0
    point_sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def to_arrays(self) -> dict[str, np.ndarray | np.generic]:
        """Returns the history as name -> array, for a checkpoint."""
        rows = [[row[name] for name in runs.HISTORY_COLUMNS] for row in self.rows]
        return {
            "history": np.reshape(np.array(rows, np.float64), [-1, len(runs.HISTORY_COLUMNS)]),
            "seconds": np.float64(self.seconds),
            "point_start": np.int64(self.point_start),
            **{f"{_SUMS}{name}": np.float64(value) for name, value in self.point_sums.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "History":
        """The inverse of `to_arrays`; ignores arrays with other names."""
        sums = {name: array for name, array in arrays.items() if name.startswith(_SUMS) and not array.shape}
        return cls(
            rows=[dict(zip(runs.HISTORY_COLUMNS, row, strict=True)) for row in arrays["history"].tolist()],
            seconds=float(arrays["seconds"]),
            point_start=int(arrays["point_start"]),
            point_sums={name.removeprefix(_SUMS): float(array) for name, array in sums.items()},
        )


# The arrays that `History.from_arrays` needs, name -> shape, where None stands for any length.
ARRAY_SHAPES = {"history": (None, len(runs.HISTORY_COLUMNS)), "seconds": (), "point_start": ()}
