"""Annealed importance sampling of many images: groups, progress, interruption and continuation."""

import json
import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from iwae_tf.evaluation import annealing
from iwae_tf.runtime import files, progress, signals

# Rows of the products of a call, num_chains * num_images: more would need more memory, and fewer be slower.
_ROWS = 2000
# About how long a compiled call takes, and how often the state is saved.
_SECONDS_PER_CALL = 1.0
_SECONDS_BETWEEN_SAVES = 60.0


class Images(NamedTuple):
    """Images to measure.

    Attributes:
      name: their name in messages and files.
      x: float array [num_images, event].
      z: for images drawn from the model, the samples they were drawn from, L arrays [num_images, d_l]; then the chains
        run in both directions. None for other images.
    """

    name: str
    x: np.ndarray
    z: Sequence[np.ndarray] | None = None

    @property
    def phases(self) -> tuple[str, ...]:
        """The runs of the chains of each image."""
        return ("pilot", "forward") if self.z is None else ("pilot", "forward", "reverse")


class Measurement:
    """Measures images; what is finished is saved, so that an interrupted measurement continues with the same bits.

    The file is left when all is measured: whoever has written the results removes it.

    Args:
      annealer: an `annealing.Annealer`.
      num_chains: chains of each image.
      path: the file for an unfinished measurement.
      identity: plain JSON that tells measurements apart; a file from another one is ignored.
    """

    def __init__(
        self,
        annealer: annealing.Annealer,
        num_chains: int,
        path: pathlib.Path,
        identity: Mapping[str, Any],
    ) -> None:
        self._annealer, self._num_transitions, self._path = annealer, annealer.schedule.num_transitions, path
        # The step sizes need fewer chains than the measurement.
        self._num_chains = {"pilot": math.ceil(num_chains / 4), "forward": num_chains, "reverse": num_chains}
        self._key = json.dumps(identity, sort_keys=True)
        stored = files.read_arrays(path) or {}
        self._saved = dict(stored) if str(stored.get("key")) == self._key else {"key": np.array(self._key)}
        self._last_save = time.monotonic()
        self._steps_per_call = 1

    def measure(self, sets: Sequence[Images]) -> dict[str, dict[str, np.ndarray]]:
        """Measures all images.

        Args:
          sets: the sets of images.

        Returns:
          Set -> array name -> array: `log_weights` and, of images drawn from the model, `reverse_log_weights`, both
          [num_chains, num_images], and `acceptance`, [num_images].

        Raises:
          signals.Interrupted: a signal asked to stop; what is finished is saved.
        """
        groups = [group for images in sets for group in self._groups(images)]
        self._progress = _Progress(sum(map(self._work, groups)))
        arrays = [self._measure_group(number, group) for number, group in enumerate(groups)]
        self._save()
        joined: dict[str, dict[str, np.ndarray]] = {}
        for images in sets:
            parts = [part for group, part in zip(groups, arrays, strict=True) if group.name == images.name]
            joined[images.name] = {
                name: np.concatenate([part[name] for part in parts], axis=-1)[..., : len(images.x)] for name in parts[0]
            }
        return joined

    def _groups(self, images) -> Iterator[Images]:
        """Groups of one size, so that they are compiled once; the last one is filled with its last image."""
        count = math.ceil(len(images.x) * self._num_chains["forward"] / _ROWS)
        size = math.ceil(len(images.x) / count)
        for first in range(0, len(images.x), size):
            rows = np.minimum(np.arange(first, first + size), len(images.x) - 1)
            yield Images(images.name, images.x[rows], images.z and [z_l[rows] for z_l in images.z])

    def _work(self, group):
        return sum(self._num_chains[phase] for phase in group.phases) * len(group.x) * self._num_transitions

    def _measure_group(self, number, group):
        """The arrays of one group."""
        prefix = f"group {number}"
        for phase in group.phases:
            if not self._is_done(prefix, group, phase):
                self._run_phase(prefix, number, group, phase)
            self._progress.finish(self._num_chains[phase] * len(group.x) * self._num_transitions)
        self._saved.pop(f"{prefix}/step_sizes", None)
        arrays = {
            "log_weights": self._saved[f"{prefix}/forward/log_weights"],
            "acceptance": self._saved[f"{prefix}/forward/acceptance"] / self._num_transitions,
        }
        if group.z is not None:
            arrays["reverse_log_weights"] = self._saved[f"{prefix}/reverse/log_weights"]
        return arrays

    def _is_done(self, prefix, group, phase):
        """Whether the results of a phase, or of a later one, are saved."""
        if phase == "pilot":
            step_sizes = self._saved.get(f"{prefix}/step_sizes")
            shape = (self._num_transitions, len(group.x))
            return self._is_done(prefix, group, "forward") or (step_sizes is not None and step_sizes.shape == shape)
        arrays = [self._saved.get(f"{prefix}/{phase}/{name}") for name in ("acceptance", "log_weights")]
        return all(array is not None and array.shape[-1:] == (len(group.x),) for array in arrays)

    def _run_phase(self, prefix, number, group, phase):
        """Runs the chains of a group from one end to the other."""
        chains, done = self._chains(number, group, phase)
        step_sizes = self._saved.get(f"{prefix}/step_sizes", np.zeros([0, len(group.x)], np.float32))
        while done < self._num_transitions:
            stop = min(done + self._steps_per_call, self._num_transitions)
            start = time.monotonic()
            arguments = (done, stop, number)
            if phase == "pilot":
                chains, further = self._annealer.pilot(group.x, chains, *arguments)
                step_sizes = np.concatenate([step_sizes, further])
                self._saved[f"{prefix}/step_sizes"] = step_sizes
            else:
                chains = getattr(self._annealer, phase)(group.x, chains, step_sizes, *arguments)
            self._saved |= {f"current/{name}": array.numpy() for name, array in chains._asdict().items()}
            self._saved["current/done"] = np.array(stop)
            self._adapt_steps(stop - done, time.monotonic() - start)
            done = stop
            self._progress.update(f"{group.name} images, {phase}", self._num_chains[phase] * len(group.x) * done)
            self._save_if_due()
        if phase != "pilot":
            for name in ("log_weights", "acceptance"):
                self._saved[f"{prefix}/{phase}/{name}"] = self._saved[f"current/{name}"]
        for name in [name for name in self._saved if name.startswith("current/")]:
            del self._saved[name]

    def _chains(self, number, group, phase):
        """The chains to continue with, and how many transitions they have made."""
        state = {name: self._saved.get(f"current/{name}") for name in (*annealing.Chains._fields, "done")}
        if all(array is not None for array in state.values()):
            done = int(state.pop("done"))
            return annealing.Chains(**{name: tf.constant(array) for name, array in state.items()}), done
        if phase == "reverse":
            return self._annealer.begin_at(group.x, group.z, self._num_chains[phase]), 0
        return self._annealer.begin(group.x, self._num_chains[phase], number, phase), 0

    def _adapt_steps(self, steps, seconds):
        """Chooses the transitions of the next call; they do not change the values."""
        # A call that compiles takes longer, so the number grows in steps.
        fitting = int(steps * _SECONDS_PER_CALL / max(seconds, 1e-3))
        self._steps_per_call = int(np.clip(fitting, 1, 4 * self._steps_per_call))

    def _save_if_due(self):
        number = signals.received()
        if number or time.monotonic() - self._last_save > _SECONDS_BETWEEN_SAVES:
            self._save()
        signals.stop_for(number)

    def _save(self):
        files.write_arrays(self._path, self._saved, compress=False)
        self._last_save = time.monotonic()


class _Progress:
    """Shows how much of the work is done, and the time left."""

    def __init__(self, total):
        self._total, self._finished = total, 0
        self._start = None
        self._tenths = 0
        self._line = progress.StatusLine()

    def update(self, text, done):
        """Reports work that is done beyond what is finished."""
        done += self._finished
        now = time.monotonic()
        if self._start is None:  # Compiling is left out.
            self._start = now, done
            return
        seconds = (now - self._start[0]) / max(done - self._start[1], 1) * (self._total - done)
        line = f"{text}: {done / self._total:.0%} of all  {progress.duration(seconds)} left"
        self._line.update(lambda: line)
        if int(10 * done / self._total) > self._tenths:
            self._tenths = int(10 * done / self._total)
            self._line.keep(line)

    def finish(self, work):
        """Counts work as finished."""
        self._finished += work
