"""Matplotlib figures -> PNG, PDF or SVG files."""

import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.figure

from iwae_tf.runtime import files

# One file, or several of the same picture; the suffix of each is its format.
Paths = str | pathlib.Path | Sequence[str | pathlib.Path]
FORMATS = ("png", "pdf", "svg")
# The same figure always makes the same file.
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def each(paths: Paths) -> Iterator[tuple[pathlib.Path, str]]:
    """Yields each file and its format; a file without a known suffix is a PNG file."""
    for path in [paths] if isinstance(paths, str | pathlib.Path) else paths:
        suffix = pathlib.Path(path).suffix.removeprefix(".")
        yield pathlib.Path(path), suffix if suffix in FORMATS else "png"


def save_figure(figure: matplotlib.figure.Figure, paths: Paths) -> None:
    """Writes a figure to one file or to several, each atomically."""
    for path, form in each(paths):
        content = io.BytesIO()
        figure.savefig(content, format=form, metadata=_METADATA[form])
        files.write_atomically(path, content.getbuffer())
