"""Pictures of images: grids, reconstructions, the worst test images."""

import io
import pathlib
from collections.abc import Sequence

import matplotlib.figure
import matplotlib.image
import numpy as np

from iwae_tf.figures import output, style
from iwae_tf.runtime import files

# Pictures are at least twice as large as their pixels. Small ones get about this width, unless they would be too high.
_LEAST_MAGNIFICATION, _WIDTH, _LARGEST_HEIGHT = 2, 500, 1500
# Higher grids are compressed, so that the size of a picture is bounded.
LARGEST_RATIO = 3.0


def image_grid(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Arranges images in a grid, row by row.

    Args:
      images: float array [num_images, height, width] or [num_images, height, width, 3] with values in [0, 1].
      columns: the number of images per row.
      gap: the number of grey pixels between images.

    Returns:
      Float array [grid_height, grid_width] or [grid_height, grid_width, 3].
    """
    num_images, height, width, *channels = images.shape
    rows = -(-num_images // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, *channels), 0.5)
    for i, image in enumerate(images):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


@style.look()
def save_image(path: output.Paths, grid: np.ndarray) -> None:
    """Writes a grid [height, width] or [height, width, 3] with values in [0, 1], magnified.

    A PNG file has nothing but the pixels. PDF and SVG files are as wide as a column.
    """
    height, width = grid.shape[:2]
    magnification = max(_LEAST_MAGNIFICATION, min(-(-_WIDTH // width), _LARGEST_HEIGHT // height))
    pixels = grid.repeat(magnification, axis=0).repeat(magnification, axis=1)
    for file, form in output.each(path):
        if form == "png":
            save_pixels(file, pixels)
        else:
            size = style.COLUMN, style.COLUMN * min(height / width, LARGEST_RATIO)
            figure = matplotlib.figure.Figure(figsize=size)
            style.show(figure.add_axes((0.0, 0.0, 1.0, 1.0)), pixels, aspect="auto")
            output.save_figure(figure, file)


def save_pixels(path: str | pathlib.Path, pixels: np.ndarray) -> None:
    """Writes pixels [height, width] or [height, width, 3] with values in [0, 1] as a PNG file of this size."""
    content = io.BytesIO()
    matplotlib.image.imsave(content, pixels, cmap=style.INK, vmin=0.0, vmax=1.0, format="png")
    files.write_atomically(path, content.getbuffer())


@style.look()
def save_worst_images(
    path: output.Paths, images: np.ndarray, reconstructions: np.ndarray, captions: Sequence[str], title: str
) -> None:
    """Draws images above their reconstructions, each with a caption.

    Args:
      path: the file or files.
      images: float array [num_images, height, width] or [num_images, height, width, 3] with values in [0, 1].
      reconstructions: as images.
      captions: one text per image.
      title: why these images were chosen.
    """
    width = min(style.PAGE, style.PAGE / 10.0 * len(images) + 1.5)
    figure = style.figure(width, 2.3)
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, caption in enumerate(captions):
        for row, stack in enumerate((images, reconstructions)):
            style.show(axes[row, column], stack[column])
        axes[1, column].set_xlabel(caption, fontsize=style.TINY)
    figure.suptitle(f"test images with the {title}, and their reconstructions")
    output.save_figure(figure, path)


@style.look()
def save_grids(path: output.Paths, grids: Sequence[np.ndarray], captions: Sequence[str]) -> None:
    """Draws grids of images side by side, each below its caption.

    Args:
      path: the file or files.
      grids: arrays [height, width] or [height, width, 3] with values in [0, 1].
      captions: one text per grid.
    """
    gap, top = style.DPI // 10, style.DPI // 4
    most = int((style.PAGE * style.DPI - gap) / max(2, len(grids)))
    (height, width), interpolation = style.magnified(grids[0].shape[:2], (int(most * LARGEST_RATIO), most))
    sheet = style.Sheet(width * len(grids) + gap * (len(grids) - 1), height + top)
    for column, (grid, caption) in enumerate(zip(grids, captions, strict=True)):
        axes = sheet.axes(column * (width + gap), top, width, height)
        style.show(axes, grid, aspect="auto", interpolation=interpolation)
        axes.set_title(caption, pad=4)
    output.save_figure(sheet.figure, path)
