"""Writes a figure as a PNG file."""

import io

from iwae_tf.runtime import files


def save_figure(figure, path):
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    files.write_atomically(path, content.getbuffer())
