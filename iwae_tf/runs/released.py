"""Released models: run directories without what only continues a training or can be drawn again.

A released model has flags.txt, data.json, history.csv, results.json, test_log_likelihoods.npz and samples.npz of its
run, ais.json and ais.npz if they were measured, weights.npz with the weights that were evaluated, and checksums.txt,
which `sha256sum -c` reads.

They lie in models/ of a checkout, and inside the package in a wheel. `find` returns one by its name.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterable

from iwae_tf.errors import UserError
from iwae_tf.runs.directory import RunDirectory
from iwae_tf.runtime import files

_PACKAGE = pathlib.Path(__file__).parents[1]
_CHECKSUMS = "checksums.txt"
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")


def folder() -> pathlib.Path:
    """Returns the folder of the released models, which may be missing."""
    installed = _PACKAGE / "released_models"
    return installed if installed.is_dir() else _PACKAGE.parent / "models"


def names() -> list[str]:
    """Returns the names of the released models, sorted."""
    # One of the two files is enough: `find` names what is missing.
    found = (path for path in folder().glob("*") if (path / _CHECKSUMS).exists() or RunDirectory(path).weights.exists())
    return sorted(path.name for path in found)


def is_name(path_or_name: str | pathlib.Path) -> bool:
    """Returns whether this is the name of a released model; what has this path has precedence."""
    # Unlike `Path.exists`, this returns False for names that are too long.
    return not os.path.exists(path_or_name) and str(path_or_name) in names()


def find(path_or_name: str | pathlib.Path) -> pathlib.Path:
    """Returns a run directory, or the folder of the released model of this name after a check of its files.

    Args:
      path_or_name: a folder, or the name of a released model; what has this path has precedence.

    Raises:
      UserError: there is neither, or the released model is damaged.
    """
    if is_name(path_or_name):
        check(folder() / path_or_name)
        return folder() / path_or_name
    if not os.path.exists(path_or_name):
        raise UserError(
            f"{path_or_name} is neither a run directory nor a released model; `iwae-tf models` lists the released ones."
        )
    return pathlib.Path(path_or_name)


def copy_run(run: RunDirectory, target: pathlib.Path) -> RunDirectory:
    """Copies the files of a finished run that a release keeps, without the weights.

    Args:
      run: the run.
      target: the new folder, which must not exist; the folder above it must.

    Returns:
      The new folder's `RunDirectory`.
    """
    target.mkdir()
    measured = run.results, run.test_log_likelihoods, run.samples, run.ais, run.ais_arrays
    for path in (run.flags, run.data, run.history, *measured):
        if path.exists():
            shutil.copyfile(path, target / path.name)
    return RunDirectory(target)


def write_checksums(path: pathlib.Path) -> None:
    """Writes checksums.txt: the SHA-256 of every other file of a released model."""
    names = sorted(file.name for file in path.iterdir() if file.name != _CHECKSUMS)
    _write_sums(path, {name: _sha256(path / name) for name in names})


def update_checksums(run: RunDirectory, written: Iterable[pathlib.Path]) -> None:
    """Writes the sums of files that were written again, if this is a copy of a released model.

    Args:
      run: the run.
      written: the files, which may be missing; the sums of all others stay, so that `check` finds their damage.
    """
    if not (run.path / _CHECKSUMS).exists():
        return
    with contextlib.suppress(UserError):  # Damaged sums stay so, too.
        sums = {name: expected for name, expected in _read_sums(run.path).items() if (run.path / name).exists()}
        _write_sums(run.path, sums | {file.name: _sha256(file) for file in written if file.exists()})


def _write_sums(path, sums):
    lines = [f"{expected}  {name}\n" for name, expected in sorted(sums.items())]
    files.write_atomically(path / _CHECKSUMS, "".join(lines).encode())


def check(path: pathlib.Path) -> None:
    """Compares the files of a released model with checksums.txt.

    Raises:
      UserError: a file is missing or differs, or checksums.txt lacks one without which the model is not complete.
    """
    sums, run = _read_sums(path), RunDirectory(path)
    for file in (run.flags, run.data, run.results, run.weights):
        if file.name not in sums:
            raise UserError(f"{path / _CHECKSUMS} is damaged: it lacks {file.name}; install iwae_tf again.")
    for name, expected in sums.items():
        if not (path / name).is_file() or _sha256(path / name) != expected:
            raise UserError(
                f"{path / name} is not the file that was released: its SHA-256 is not that of {_CHECKSUMS}; install "
                "iwae_tf again."
            )


def _read_sums(path):
    """What checksums.txt holds, name of a file -> SHA-256."""
    try:
        lines = (path / _CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path / _CHECKSUMS} ({error}); install iwae_tf again.") from error
    sums = {}
    for line in lines:
        match = _CHECKSUM_LINE.fullmatch(line)
        if not match:
            raise UserError(f"{path / _CHECKSUMS} is damaged (see {line[:80]!r}); install iwae_tf again.")
        expected, name = match.groups()
        sums[name] = expected
    return sums


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
