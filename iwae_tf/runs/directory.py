"""The folder of a run: its files, and who may write there.

flags.txt                   the format version, and a flagfile that repeats the run
data.json                   the images: numbers, size, binarisation, check sum
model.json                  Keras' configuration of the model, in a run of `iwae_tf.train`
checkpoints/                what continues the training
weights.npz                 the weights alone, averaged over training, in a released model; see `released`
unfinished_evaluation.npz   what continues the evaluation
history.csv                 one row per epoch, see `history.HISTORY_COLUMNS`
results.json                the results of the evaluation, see `results.Results`
test_log_likelihoods.npz    per-image values behind the NLL
samples.npz                 images drawn from the prior
figures/                    pictures
train/, validation/         TensorBoard event files of the training
test/                       those of the run's flags and results, and files of the projector
saved_model/                the exported model
pruned/                     the model without inactive units, and its NLL
gradients.json              bias and variance of gradient estimators
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from collections.abc import Mapping

import msgspec
import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.runs import checkpoints
from iwae_tf.runs import history as history_file
from iwae_tf.runs.lock import FolderLock
from iwae_tf.runs.results import Annealing, DataDescription, Results, from_json, to_json
from iwae_tf.runtime import files

# The version of these files. A reader accepts this one and all before it; runs without a version are of format 1.
FORMAT = 2
_FORMAT_LINE = re.compile(r"# iwae_tf run, format ([0-9]{1,9})")
# Of flags.txt, in any locale; the names of files need not be UTF-8.
_ENCODING = ("utf-8", "surrogateescape")
# The setting that tells a run of `iwae_tf.train` from a run of a command.
TRAINED_WITH = "trained_with"
# Settings that may grow when a run is continued.
GROWING_SETTINGS = ("stages",)
# Settings that say where something is stored, which may change; data.json describes what has to be there.
MOVING_SETTINGS = ("data_dir",)


class RunDirectory:
    """The files of one run; a context manager that releases the folder at its end.

    Args:
      path: the folder.
      before: values of settings in runs that were made before the settings existed, name -> text.
    """

    def __init__(self, path: str | pathlib.Path, before: Mapping[str, str] | None = None):
        self.path = pathlib.Path(path)
        self.flags = self.path / "flags.txt"
        self.data = self.path / "data.json"
        self.model = self.path / "model.json"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights.npz"
        self.history = self.path / "history.csv"
        self.results = self.path / "results.json"
        self.test_log_likelihoods = self.path / "test_log_likelihoods.npz"
        self.samples = self.path / "samples.npz"
        self.figures = self.path / "figures"
        self.train_events = self.path / "train"
        self.validation_events = self.path / "validation"
        self.test_events = self.path / "test"
        self.settings_events = self.test_events / "events.out.tfevents.0.settings"
        self.result_events = self.test_events / "events.out.tfevents.1.results"
        self.saved_model = self.path / "saved_model"
        self.pruned = self.path / "pruned"
        self.gradients = self.path / "gradients.json"
        self.ais = self.path / "ais.json"
        self.ais_arrays = self.path / "ais.npz"
        self.unfinished_evaluation = self.path / "unfinished_evaluation.npz"
        self.unfinished_annealing = self.path / "unfinished_annealing.npz"
        self._before = dict(before or {})
        self._lock = FolderLock(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def has_checkpoints(self) -> bool:
        """Whether the folder holds a training run that can be continued."""
        return bool(checkpoints.steps(self.checkpoints))

    def is_released(self) -> bool:
        """Whether the folder holds the weights of a trained model, but nothing to continue its training with."""
        return self.weights.exists() and not self.has_checkpoints()

    def has_model(self) -> bool:
        """Whether the folder holds a trained model."""
        return self.has_checkpoints() or self.weights.exists()

    def check(self, settings: Mapping[str, str], overwrite: bool = False) -> None:
        """Checks that a run with these settings may use the folder; changes nothing.

        Args:
          settings: name -> text, everything that decides what the run computes.
          overwrite: whether an earlier run in the folder will be removed.

        Raises:
          UserError: the folder holds something else, or a run that was trained with other settings.
        """
        self._check_entries()
        stored = self._stored_settings()
        if stored and (self.checkpoints.exists() or self.weights.exists()) and not overwrite:
            _refuse_differences(self.path, self._before | stored, settings, self.is_released())

    def claim(self, settings: Mapping[str, str], overwrite: bool = False, data: DataDescription | None = None) -> None:
        """Makes the folder this run's own, after the checks of `check`.

        Args:
          settings: as for `check`.
          overwrite: as for `check`.
          data: the images, or None to leave them out of the record.

        Raises:
          UserError: as `check`; the run was trained on other images; the folder cannot be written; or another
            process is using it.
        """
        self.check(settings, overwrite)
        self.take()
        self.check(settings, overwrite)  # Another process may have written in the meantime.
        if data and self.has_model() and not overwrite:
            self.check_data(data)
        lines = [f"# iwae_tf run, format {FORMAT}", *(f"--{name}={value}" for name, value in settings.items())]
        with self._refusing_failures():
            for path in self._temporaries():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if overwrite:
                self._remove_run()
            files.write_atomically(self.flags, ("\n".join(lines) + "\n").encode(*_ENCODING))
            if data:
                files.write_atomically(self.data, to_json(data))

    def take(self) -> None:
        """Creates the folder and locks it; the lock ends with the process, however that ends.

        Raises:
          UserError: another process is using the folder, or it cannot be created.
        """
        with self._refusing_failures():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()

    def release(self) -> None:
        """Lets other processes use the folder."""
        self._lock.release()

    def read_flags(self) -> dict[str, str]:
        """Returns the settings of the run, name -> text.

        Raises:
          UserError: this is not a run directory, it was written by a later version, or it holds files that no run
            writes.
        """
        self._check_entries()
        stored = self._stored_settings()
        if not stored:
            reason = "it has no flags.txt" if os.path.exists(self.path) else "there is no such folder"
            raise UserError(f"{self.path} is not a run directory: {reason}.")
        return stored

    def check_data(self, data: DataDescription) -> None:
        """Checks that images are those that the run was trained on.

        Args:
          data: the images.

        Raises:
          UserError: they are different.
        """
        if not self.data.exists():
            return
        stored, given = msgspec.to_builtins(self.read_data()), msgspec.to_builtins(data)
        differences = [
            f"{name} is {stored[name]} there and {value} here"
            for name, value in given.items()
            if name in stored and stored[name] != value
        ]
        if differences:
            raise UserError(
                f"{self.path} was trained on other images ({'; '.join(differences)}): use the same images to continue "
                "it, choose another run directory, or overwrite the run."
            )

    def read_data(self) -> DataDescription:
        """Returns the description of the images of the run.

        Raises:
          UserError: it is missing or damaged.
        """
        if not self.data.exists():
            raise UserError(f"{self.path} has no {self.data.name}; the command that trained it writes it again.")
        remedy = "remove it, it will be written again"
        data = from_json(self.data, DataDescription, remedy)
        if not data.event_shape:
            raise UserError(f"{self.data} is damaged: it has no image_shape; {remedy}.")
        return data

    def read_history(self) -> list[dict[str, float]]:
        """Returns the rows of history.csv; see `history.read_history`."""
        return history_file.read_history(self.history)

    def write_history(self, rows) -> None:
        """Writes history.csv, replacing the old one."""
        history_file.write_history(self.history, rows)

    def read_results(self) -> Results | None:
        """Returns the results of the evaluation, or None if there are none yet.

        Raises:
          UserError: the file is damaged.
        """
        return from_json(self.results, Results, "remove it to evaluate again") if self.results.exists() else None

    def read_log_likelihoods(self, num_images: int | None = None) -> np.ndarray | None:
        """Returns log p(x) of each test image in nats, [num_images], or None if they are missing or damaged.

        Args:
          num_images: how many there have to be; None accepts any number.
        """
        name = "log_likelihood"
        values = (files.read_arrays(self.test_log_likelihoods, [name]) or {}).get(name)
        if values is None or values.ndim != 1 or not np.issubdtype(values.dtype, np.floating):
            return None
        return values if num_images in (None, len(values)) and np.isfinite(values).all() else None

    def read_annealing(self) -> Annealing | None:
        """Returns what ais.json holds, or None if it is missing.

        Raises:
          UserError: the file is damaged.
        """
        return from_json(self.ais, Annealing, "remove it to measure again") if self.ais.exists() else None

    def write_results(self, results: Results) -> None:
        """Writes results.json; all numbers must be finite."""
        files.write_atomically(self.results, to_json(results))

    def discard_results(self) -> None:
        """Removes the results and exported models, which do not describe a model that is trained further."""
        drawn = [path for name in ("gradients", "ais") for path in self.figures.glob(f"{name}.*")]
        shown = [path for path in self.test_events.glob("*") if path.is_file() and path != self.settings_events]
        for path in (self.results, *self._measured_later(), *drawn, *shown):
            path.unlink(missing_ok=True)
        if self.saved_model.exists():
            shutil.rmtree(self.saved_model)
        self.discard_pruned()

    def discard_pruned(self) -> None:
        """Removes the model without inactive units."""
        if self.pruned.exists():
            shutil.rmtree(self.pruned)

    def _folders(self):
        events = self.train_events, self.validation_events, self.test_events
        return self.checkpoints, self.figures, *events, self.saved_model, self.pruned

    def _files(self):
        evaluated = self.results, self.test_log_likelihoods, self.samples
        return self.flags, self.data, self.model, self.weights, self.history, *evaluated, *self._measured_later()

    def _measured_later(self):
        unfinished = self.unfinished_evaluation, self.unfinished_annealing
        return self.gradients, self.ais, self.ais_arrays, *unfinished

    def _check_entries(self):
        """Refuses what no run writes, such as symbolic links through which files elsewhere would be overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file, not a run directory; choose another run directory.")
        entries = list(self.path.iterdir()) if self.path.exists() else []
        below = [path for folder in self._folders() if folder.is_dir() for path in folder.rglob("*")]
        for path in (*entries, *below):
            if path.is_symlink():
                raise UserError(f"{path} is a symbolic link, which a run does not follow; remove it.")
        for path in entries:
            if (path in self._folders() and not path.is_dir()) or (path in self._files() and not path.is_file()):
                kind = "file" if path in self._files() else "folder"
                raise UserError(f"{path} is not a {kind}, as it is in a run directory; remove it.")

    def _temporaries(self):
        """What is left of writes that were killed."""
        named = [path for known in (*self._files(), *self._folders()) for path in self.path.glob(f".{known.name}*")]
        folders = self.figures, self.test_events, self.pruned
        return [*named, *self.checkpoints.glob(".ckpt-*"), *(path for folder in folders for path in folder.glob(".*"))]

    @contextlib.contextmanager
    def _refusing_failures(self):
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(
                f"Cannot write to the run directory {self.path} ({error.strerror}); choose another run directory."
            ) from error

    def _stored_settings(self):
        """The settings of the run in the folder, or {} for an empty folder."""
        if not self.flags.exists():
            if self.path.is_dir() and set(self.path.iterdir()) - {*self._temporaries(), self._lock.file}:
                raise UserError(
                    f"{self.path} holds something other than a run (it has no flags.txt); choose another run directory."
                )
            return {}
        lines = self.flags.read_bytes().decode(*_ENCODING).split("\n")
        match = _FORMAT_LINE.match(lines[0]) if lines else None
        if match and int(match[1]) > FORMAT:
            raise UserError(
                f"{self.path} was written by a later version of iwae_tf (format {match[1]}; this version reads up to "
                f"{FORMAT}); update iwae_tf."
            )
        pairs = [line.removeprefix("--").split("=", 1) for line in lines if line.startswith("--") and "=" in line]
        if not pairs:
            raise UserError(f"{self.flags} is damaged: it holds no flags; choose another run directory.")
        return dict(pairs)

    def _remove_run(self):
        """Removes the files of a run and nothing else; flags.txt stays, which marks the folder as a run directory."""
        for folder in self._folders():
            if folder.exists():
                shutil.rmtree(folder)
        for file in self._files():
            if file != self.flags:
                file.unlink(missing_ok=True)


def _refuse_differences(path, stored, settings, is_released):
    """Raises a UserError that lists the settings that differ from those of the run in `path`."""
    differences = [
        f"{name} is {stored.get(name) or '(not set)'} there and {value or '(not set)'} here"
        for name, value in settings.items()
        if stored.get(name) != _as_read(value)
        and name not in MOVING_SETTINGS
        and not _has_grown(name, stored.get(name), value)
    ]
    if differences:
        if is_released:
            remedy = "it is a released model; choose another run directory"
        else:
            remedy = "use the same settings to continue it, choose another run directory, or overwrite the run"
        more = f"; {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UserError(f"{path} was started with other settings ({'; '.join(differences[:5])}{more}): {remedy}.")


def _as_read(value):
    """A setting as flags.txt gives it back; the name of a file may be decoded otherwise in another locale."""
    return value.encode(*_ENCODING).decode(*_ENCODING)


def _has_grown(name, old, new):
    if name not in GROWING_SETTINGS or not re.fullmatch("[0-9]{1,9}", old or ""):
        return False
    return int(new) >= int(old)
