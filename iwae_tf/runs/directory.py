"""The folder that a run leaves behind: its files, their formats, and who may write there.

flags.txt                   a flagfile that repeats the run
data.json                   what its images were: numbers, size, binarisation, check sum
checkpoints/                what continues the training
unfinished_evaluation.npz   what continues the evaluation
history.csv                 one row an epoch, see HISTORY_COLUMNS
results.json                what the evaluation found
test_log_likelihoods.npz    the NLL's per-image values
samples.npz                 images drawn from the prior
figures/                    pictures
train/, validation/         TensorBoard event files
saved_model/                the exported model
pruned/                     the model without inactive units, and what it is worth
"""

import json
import contextlib
import csv
import errno
import fcntl
import os
import pathlib
import shutil
import sys
from iwae_tf.errors import UserError
from iwae_tf.runs import checkpoints
from iwae_tf.runs.results import HISTORY_COLUMNS, LARGEST, RESULTS, missing_place, wrong_option
from iwae_tf.runtime import files

# Pixels along a side, beyond which a record of images is no such thing.
_MOST_PIXELS = 10_000
# Flags by which a run that was started may be continued further.
GROWING_FLAGS = ("stages",)
# Flags that say where something lies, which may be moved; data.json holds what it has to be.
MOVING_FLAGS = ("data_dir",)


class RunDirectory:
    """The files of one run; a context, at whose end the folder is released."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.flags = self.path / "flags.txt"
        self.data = self.path / "data.json"
        self.checkpoints = self.path / "checkpoints"
        self.history = self.path / "history.csv"
        self.results = self.path / "results.json"
        self.test_log_likelihoods = self.path / "test_log_likelihoods.npz"
        self.samples = self.path / "samples.npz"
        self.figures = self.path / "figures"
        self.train_events = self.path / "train"
        self.validation_events = self.path / "validation"
        self.saved_model = self.path / "saved_model"
        self.pruned = self.path / "pruned"
        self.unfinished_evaluation = self.path / "unfinished_evaluation.npz"
        self._lock = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def has_checkpoints(self):
        """Whether a training began here that can be continued."""
        return bool(checkpoints.steps(self.checkpoints))

    def check(self, flags, overwrite=False):
        """Checks that a run with these flags may go on here, and changes nothing.

        Args:
          flags: name -> value, texts, of every flag that decides what the run computes.
          overwrite: whether what an earlier run left here will be removed.

        Raises:
          UserError: the folder holds something else, or a run that was trained with other flags.
        """
        self._check_entries()
        stored = self._stored_flags()
        if stored and self.checkpoints.exists() and not overwrite:
            _refuse_differences(self.path, stored, flags)

    def _folders(self):
        events = self.train_events, self.validation_events
        return self.checkpoints, self.figures, *events, self.saved_model, self.pruned

    def _files(self):
        return (
            self.flags,
            self.data,
            self.history,
            self.results,
            self.test_log_likelihoods,
            self.samples,
            self.unfinished_evaluation,
        )

    def _check_entries(self):
        """Raises a UserError for what no run leaves, such as links by which a foreign one has us write elsewhere."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file, not a run directory; give another --run_dir.")
        entries = list(self.path.iterdir()) if self.path.exists() else []
        below = [path for folder in self._folders() if folder.is_dir() for path in folder.rglob("*")]
        for path in (*entries, *below):
            if path.is_symlink():
                raise UserError(f"{path} is a symbolic link, which a run does not write through; remove it.")
        for path in entries:
            if (path in self._folders() and not path.is_dir()) or (path in self._files() and not path.is_file()):
                kind = "file" if path in self._files() else "folder"
                raise UserError(f"{path} is no {kind}, as it is in a run; remove it.")

    def _temporaries(self):
        """What writes that were killed have left: of use to nobody."""
        named = [path for known in (*self._files(), *self._folders()) for path in self.path.glob(f".{known.name}*")]
        return [*named, *self.checkpoints.glob(".ckpt-*"), *self.figures.glob(".*.png.*"), *self.pruned.glob(".*")]

    def claim(self, flags, overwrite=False, data=None):
        """Makes the folder this run's own, after the checks of `check`.

        Args:
          flags: as for `check`.
          overwrite: as for `check`.
          data: what the images are, plain JSON, see `datasets.Images.describe`; or None, if nobody needs to know.

        Raises:
          UserError: as `check`; the run was trained on other images; the folder cannot be written; or another
            process works there.
        """
        self.check(flags, overwrite)
        self.take()
        self.check(flags, overwrite)  # Until now another process may have written.
        if data and self.has_checkpoints() and not overwrite:
            self.check_data(data)
        with self._refusing_failures():
            for path in self._temporaries():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if overwrite:
                self._remove_run()
            files.write_atomically(self.flags, "".join(f"--{name}={value}\n" for name, value in flags.items()).encode())
            if data:
                files.write_atomically(self.data, (json.dumps(data, indent=2) + "\n").encode())

    def take(self):
        """Makes the folder and locks it; the lock ends with the process, however that ends.

        Raises:
          UserError: another process works there, or the folder cannot be made.
        """
        if self._lock is not None:
            return
        with self._refusing_failures():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise UserError(
                f"Another process works in {self.path}; wait for its end, or give another --run_dir."
            ) from error
        except OSError as error:
            # Some network file systems have no locks.
            print(f"iwae_tf: {self.path} cannot be locked ({error.strerror}); start one process only", file=sys.stderr)
        self._lock = lock

    def release(self):
        """Lets other processes claim the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _refusing_failures(self):
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(
                f"Cannot write to the run directory {self.path} ({error.strerror}); give another --run_dir."
            ) from error

    def read_flags(self):
        """Returns the flags of the run, name -> value, both texts.

        Raises:
          UserError: this is not a run directory, or it holds what no run leaves.
        """
        self._check_entries()
        stored = self._stored_flags()
        if not stored:
            raise UserError(f"{self.path} is not a run directory: it has no flags.txt.")
        return stored

    def check_data(self, data):
        """Checks that images are those that the run was trained on.

        Args:
          data: what they are, as for `claim`.

        Raises:
          UserError: they are others.
        """
        stored = self._stored_data() or data
        changed = {name: value for name, value in data.items() if stored.get(name) != value}
        different = [f"{name} {stored.get(name)} there, {value} here" for name, value in changed.items()]
        if different:
            raise UserError(
                f"{self.path} was trained on other images ({'; '.join(different)}): give the same ones to continue it, "
                "another --run_dir, or --overwrite to start anew."
            )

    def read_data(self):
        """Returns what the images of the run are, as `claim` was told.

        Raises:
          UserError: there is no such record, or it is damaged.
        """
        data = self._stored_data()
        if data is None:
            raise UserError(f"{self.path} has no {self.data.name}; the command that trained it writes it anew.")
        return data

    def _stored_data(self):
        if not self.data.exists():
            return None
        try:
            data = json.loads(self.data.read_text())
            height, width = data["image_shape"]
            if not all(type(side) is int and 0 < side <= _MOST_PIXELS for side in (height, width)):
                raise ValueError(f"image_shape {data['image_shape']}")
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"Cannot read {self.data} ({error!r}); remove it: it is written anew.") from error
        return data

    def _stored_flags(self):
        """The flags of the run that is here, or {} for an empty folder."""
        if not self.flags.exists():
            if self.path.is_dir() and set(self.path.iterdir()) - set(self._temporaries()):
                raise UserError(
                    f"{self.path} holds something else than a run (it has no flags.txt); give another --run_dir."
                )
            return {}
        lines = self.flags.read_text(errors="replace").splitlines()
        pairs = [line.removeprefix("--").split("=", 1) for line in lines if line.startswith("--") and "=" in line]
        if not pairs:
            raise UserError(f"{self.flags} is damaged: it holds no flags; give another --run_dir.")
        return dict(pairs)

    def _remove_run(self):
        """Removes the files of a run and nothing else, but for flags.txt, by which the folder stays recognisable."""
        for folder in self._folders():
            if folder.exists():
                shutil.rmtree(folder)
        for file in self._files():
            if file != self.flags:
                file.unlink(missing_ok=True)

    def discard_results(self):
        """Removes results and exported models, which do not hold for a model that is trained further."""
        self.results.unlink(missing_ok=True)
        self.unfinished_evaluation.unlink(missing_ok=True)
        if self.saved_model.exists():
            shutil.rmtree(self.saved_model)
        self.discard_pruned()

    def discard_pruned(self):
        """Removes the model without inactive units."""
        if self.pruned.exists():
            shutil.rmtree(self.pruned)

    def read_history(self):
        """Returns the rows of history.csv, dictionaries of floats; none if there is no such file.

        Raises:
          UserError: the file is damaged.
        """
        if not self.history.exists():
            return []
        try:
            with self.history.open(newline="") as file:
                rows = [{name: float(row[name]) for name in HISTORY_COLUMNS} for row in csv.DictReader(file)]
            wrong = [value for row in rows for value in row.values() if not abs(value) < LARGEST]
            if wrong:
                raise ValueError(f"{wrong[0]} is no number of a training")
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise UserError(f"Cannot read {self.history} ({error}); remove it: it is written anew.") from error
        return rows

    def write_history(self, rows):
        """Writes history.csv anew."""
        lines = [",".join(HISTORY_COLUMNS)]
        lines += [",".join(f"{row[name]:.9g}" for name in HISTORY_COLUMNS) for row in rows]
        files.write_atomically(self.history, ("\n".join(lines) + "\n").encode())

    def read_results(self):
        """Returns the object in results.json, or None if there is none yet.

        Raises:
          UserError: the file is damaged.
        """
        if not self.results.exists():
            return None
        try:
            results = json.loads(self.results.read_text())
            missing = missing_place(results, RESULTS) or wrong_option(results)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"Cannot read {self.results} ({error!r}); remove it to evaluate again.") from error
        if missing:
            raise UserError(f"{self.results} is damaged (see {missing}); remove it to evaluate again.")
        return results

    def write_results(self, results):
        """Writes results.json; numbers must be plain and finite."""
        files.write_atomically(self.results, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())


def _refuse_differences(path, stored, flags):
    """Raises a UserError that lists the flags that differ from those of the run in `path`."""
    differences = [
        f"--{name}={stored.get(name, '(none)')} there, {value} here"
        for name, value in flags.items()
        if stored.get(name) != value and name not in MOVING_FLAGS and not _has_grown(name, stored.get(name), value)
    ]
    if differences:
        raise UserError(
            f"{path} was started with other flags ({'; '.join(differences)}): give the same ones to continue it, "
            "another --run_dir, or --overwrite to start anew."
        )


def _has_grown(name, old, new):
    return name in GROWING_FLAGS and old is not None and old.isdigit() and int(new) >= int(old)
