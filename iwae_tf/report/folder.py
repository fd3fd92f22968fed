"""The folder of a report: which files are its own, and which folders are not to be touched."""

import contextlib
import os
import pathlib
import re

from iwae_tf.errors import UserError
from iwae_tf.report import tables

# A report's own files besides report.md; those of an earlier one are removed.
_OWN_FILES = re.compile(r"report\.json|(samples|reconstructions|(learning_curves|nll|active_units)(_\d+)?)\.png")


@contextlib.contextmanager
def refusing_failures(out):
    try:
        yield
    except OSError as error:
        raise UserError(f"--out={out} cannot be a folder ({error.strerror}); give another --out.") from error


def refuse_folder(out, paths):
    """Raises a UserError for a folder that is something else's."""
    resolved = pathlib.Path(os.path.realpath(out))
    for path in paths:
        if pathlib.Path(os.path.realpath(path)) in (resolved, *resolved.parents):
            raise UserError(
                f"--out={out} lies in the run directory {path}, which is left as it is; give another --out."
            )
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file, not a folder; give another --out.")
    entries = set(out.iterdir()) - set(out.glob(".report.md.*")) if out.exists() else set()
    if entries and not is_report(out):
        raise UserError(f"--out={out} holds something else than a report; give another --out.")
    folders = sorted(path.name for path in _own_files(out) if path.is_dir())
    if folders:
        raise UserError(
            f"{out / folders[0]} is a folder, where the report has a file; remove it or give another --out."
        )


def _own_files(out):
    """What an earlier report has left besides report.md."""
    return [path for path in out.glob("*") if _OWN_FILES.fullmatch(path.name)]


def is_report(out):
    """Whether a folder holds a report, and not somebody's own report.md."""
    if not os.path.isfile(out / "report.md"):
        return False
    with contextlib.suppress(OSError), (out / "report.md").open(errors="replace") as file:
        return file.readline() == f"{tables.TITLE}\n" and file.read(7) == "\nRuns: "
    return False


def remove_old(out, kept):
    """Removes what an earlier report has left and this one does not have."""
    for path in _own_files(out):
        if path.name not in kept:
            path.unlink(missing_ok=True)
