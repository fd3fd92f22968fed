"""The folder of a report: which files belong to it, and which folders must not be touched."""

import contextlib
import os
import pathlib
import re
from collections.abc import Container, Iterable, Iterator

from iwae_tf.errors import UserError
from iwae_tf.report import text

# The files of a report, besides report.md; those of an earlier report are removed.
_REPORT_FILES = re.compile(r"report\.json|(samples|reconstructions|(learning_curves|nll|active_units)(_\d+)?)\.png")


@contextlib.contextmanager
def refusing_failures(out: pathlib.Path) -> Iterator[None]:
    """Turns an `OSError` within it into a `UserError` about the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out={out} cannot be a folder ({error.strerror}); give another --out.") from error


def refuse_folder(out: pathlib.Path, run_dirs: Iterable[str]) -> None:
    """Checks that a report may be written to a folder.

    Args:
      out: the folder, which may not exist yet.
      run_dirs: the run directories, which must not be changed.

    Raises:
      UserError: the folder holds something other than a report, or is within a run directory.
    """
    resolved = pathlib.Path(os.path.realpath(out))
    for path in run_dirs:
        if pathlib.Path(os.path.realpath(path)) in (resolved, *resolved.parents):
            raise UserError(
                f"--out={out} lies in the run directory {path}, which must not be changed; give another --out."
            )
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file, not a folder; give another --out.")
    # An interrupted write leaves a .report.md.* behind.
    entries = set(out.iterdir()) - set(out.glob(".report.md.*")) if out.exists() else set()
    if entries and not is_report(out):
        raise UserError(f"--out={out} holds something other than a report; give another --out.")
    folders = sorted(path.name for path in _report_files(out) if path.is_dir())
    if folders:
        raise UserError(
            f"{out / folders[0]} is a folder, but the report has a file of this name; remove it or give another --out."
        )


def is_report(out: pathlib.Path) -> bool:
    """Whether a folder holds a report, and not just any report.md."""
    if not os.path.isfile(out / "report.md"):
        return False
    with contextlib.suppress(OSError), (out / "report.md").open(encoding="utf-8", errors="replace") as file:
        return file.read(len(text.BEGINNING)) == text.BEGINNING
    return False


def remove_old(out: pathlib.Path, kept: Container[str]) -> None:
    """Removes the files of an earlier report, except those with a name in `kept`."""
    for path in _report_files(out):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _report_files(out: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in out.glob("*") if _REPORT_FILES.fullmatch(path.name)]
