"""Where a report lies: which files belong to it, and which folders must not be touched."""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Container, Iterable, Iterator

from iwae_tf.errors import UserError
from iwae_tf.report import text

# The files of a report, besides its text; those of an earlier report are removed.
_REPORT_FILES = re.compile(
    r"report\.(json|tex)|(samples|reconstructions|(learning_curves|nll|active_units)(_\d+)?)\.(png|pdf|svg)"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a report.

    Attributes:
      out: what was asked for: a folder, or a Markdown file.
      text: the Markdown file.
      pictures: the folder of the pictures.
    """

    out: pathlib.Path
    text: pathlib.Path
    pictures: pathlib.Path

    @classmethod
    def of(cls, out: str) -> "Place":
        """Returns the place of --out: FOLDER/report.md with its pictures beside it, or FILE.md with those in FILE/."""
        path = pathlib.Path(out)
        if path.suffix == ".md":
            return cls(path, path, path.with_suffix(""))
        return cls(path, path / "report.md", path)

    @property
    def json(self) -> pathlib.Path:
        """The file of --json."""
        return self.text.with_suffix(".json")

    @property
    def latex(self) -> pathlib.Path:
        """The tables as LaTeX."""
        return self.text.with_suffix(".tex")

    def link(self, picture: str) -> str:
        """Returns the path of a picture in the text."""
        return (self.pictures / picture).relative_to(self.text.parent).as_posix()

    def is_report(self) -> bool:
        """Whether there is a report, and not just any Markdown file."""
        return _begins_with(self.text, text.BEGINNING)

    @contextlib.contextmanager
    def refusing_failures(self) -> Iterator[None]:
        """Turns an `OSError` within it into a `UserError` about the place."""
        try:
            yield
        except OSError as error:
            raise UserError(f"--out={self.out} cannot be written ({error.strerror}); give another --out.") from error

    def check(self, run_dirs: Iterable[str]) -> None:
        """Checks that a report may be written here.

        Args:
          run_dirs: the run directories, which must not be changed.

        Raises:
          UserError: there is something other than a report, or this is within a run directory.
        """
        resolved = pathlib.Path(os.path.realpath(self.pictures))
        for path in run_dirs:
            if pathlib.Path(os.path.realpath(path)) in (resolved, *resolved.parents):
                raise UserError(
                    f"--out={self.out} lies in the run directory {path}, which must not be changed; give another --out."
                )
        if self.pictures.exists() and not self.pictures.is_dir():
            raise UserError(f"{self.pictures} is a file, not a folder; give another --out.")
        # An interrupted write leaves a .report.md.* behind.
        interrupted = set(self.pictures.glob(f".{self.text.name}.*"))
        entries = set(self.pictures.iterdir()) - interrupted if self.pictures.exists() else set()
        if (entries or self.text.exists()) and not self.is_report():
            raise UserError(f"--out={self.out} holds something other than a report; give another --out.")
        if self.latex.exists() and not _begins_with(self.latex, text.LATEX_BEGINNING):
            raise UserError(
                f"{self.latex} is something other than the tables of a report, which would replace it; rename it or "
                "give another --out."
            )
        folders = sorted(path.name for path in self._report_files() if path.is_dir())
        if folders:
            raise UserError(
                f"{self.pictures / folders[0]} is a folder, but the report has a file of this name; remove it or give "
                "another --out."
            )

    def remove_old(self, kept: Container[str]) -> None:
        """Removes the files of an earlier report, except those with a name in `kept`."""
        for path in self._report_files():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _report_files(self) -> list[pathlib.Path]:
        return [path for path in self.pictures.glob("*") if _REPORT_FILES.fullmatch(path.name)]


def _begins_with(path: pathlib.Path, beginning: str) -> bool:
    """Whether there is a file that begins with a text."""
    if not os.path.isfile(path):
        return False
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        return file.read(len(beginning)) == beginning
    return False
