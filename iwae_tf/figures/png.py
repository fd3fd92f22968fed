"""PNG files of matplotlib figures."""

import io
import pathlib

import matplotlib.figure

from iwae_tf.runtime import files


def save_figure(figure: matplotlib.figure.Figure, path: str | pathlib.Path) -> None:
    """Writes a figure as a PNG file, atomically."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    files.write_atomically(path, content.getbuffer())
