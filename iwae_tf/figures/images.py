"""Pictures of images: grids, reconstructions, the worst test images."""

import io
import pathlib
from collections.abc import Sequence

import matplotlib.figure
import matplotlib.image
import numpy as np

from iwae_tf.figures import png
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


def save_image(path: str | pathlib.Path, grid: np.ndarray) -> None:
    """Writes a grid [height, width] or [height, width, 3] with values in [0, 1] as a magnified PNG file."""
    height, width = grid.shape[:2]
    magnification = max(_LEAST_MAGNIFICATION, min(-(-_WIDTH // width), _LARGEST_HEIGHT // height))
    pixels = grid.repeat(magnification, axis=0).repeat(magnification, axis=1)
    content = io.BytesIO()
    matplotlib.image.imsave(content, pixels, cmap="gray", vmin=0.0, vmax=1.0)
    files.write_atomically(path, content.getbuffer())


def save_worst_images(
    path: str | pathlib.Path, images: np.ndarray, reconstructions: np.ndarray, captions: Sequence[str], title: str
) -> None:
    """Draws images above their reconstructions, each with a caption, as a PNG file.

    Args:
      path: the file.
      images: float array [num_images, height, width] or [num_images, height, width, 3] with values in [0, 1].
      reconstructions: as images.
      captions: one text per image.
      title: why these images were chosen.
    """
    figure = matplotlib.figure.Figure(figsize=(1.1 * len(images) + 0.2, 3.6), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, caption in enumerate(captions):
        for row, stack in enumerate((images, reconstructions)):
            axes[row, column].imshow(stack[column], cmap="gray", vmin=0.0, vmax=1.0)
            axes[row, column].set(xticks=[], yticks=[])
        axes[1, column].set_xlabel(caption, fontsize=8)
    figure.suptitle(f"test images with the {title}, and their reconstructions", fontsize=9)
    png.save_figure(figure, path)


def save_grids(path: str | pathlib.Path, grids: Sequence[np.ndarray], captions: Sequence[str]) -> None:
    """Draws grids of images side by side, each below its caption, as a PNG file.

    Args:
      path: the file.
      grids: arrays [height, width] or [height, width, 3] with values in [0, 1].
      captions: one text per grid.
    """
    height, width = grids[0].shape[:2]
    inches = 5.0
    figure = matplotlib.figure.Figure(
        figsize=(inches * len(grids), inches * min(height / width, LARGEST_RATIO) + 0.3), layout="constrained"
    )
    for axes, grid, caption in zip(np.ravel(figure.subplots(1, len(grids))), grids, captions, strict=True):
        axes.imshow(grid, cmap="gray", vmin=0.0, vmax=1.0, aspect="equal" if height < LARGEST_RATIO * width else "auto")
        axes.set_title(caption, fontsize=11, pad=4)
        axes.axis("off")
    png.save_figure(figure, path)
