"""The look of all figures: sizes, fonts, colours, and whether ink is dark or bright.

Figures have the size at which they are printed: one is as wide as a column or as a page of a paper, and its text is
readable there without scaling. Whatever a user's matplotlibrc says does not change them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.rcsetup
import numpy as np

# Widths in inches.
COLUMN, PAGE = 3.4, 7.0
DPI = 240
# Points.
SMALL, TINY = 7.0, 6.0
# The colours of Okabe and Ito, which colour-blind readers can tell apart, without yellow, which is pale on paper.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY, SILVER = "#666666", "#BBBBBB"
LINES = ("-", "--", ":", "-.")
# Densities.
SHADES = "Blues"
# Pixels are shown as their values are stored: 0 is black and 1 is white, so the ink of MNIST is white. Photographs look
# right, and the pictures in TensorBoard have the same polarity.
INK = "gray"

_SETTINGS: dict[str, Any] = {
    "savefig.dpi": DPI,
    "figure.dpi": DPI,
    "figure.titlesize": 8.0,
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.fancybox": False,
    "legend.edgecolor": "0.8",
    "axes.linewidth": 0.6,
    "patch.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLORS),
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "errorbar.capsize": 2.5,
    # Publishers refuse fonts of type 3.
    "pdf.fonttype": 42,
    "svg.hashsalt": "iwae_tf",
    # Pixels stay pixels in PDF and SVG files.
    "image.composite_image": False,
}


@contextlib.contextmanager
def look() -> Iterator[None]:
    """A context, or a decorator, in which figures have this look."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams
        parameters.update(_SETTINGS)
        yield


def figure(width: float, height: float) -> matplotlib.figure.Figure:
    """Returns an empty figure of this size in inches."""
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def line(number: int) -> dict[str, Any]:
    """The style of one line of many: they differ in colour, and then in how they are drawn."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number // len(COLORS) % len(LINES)]}


def number(value: float) -> str:
    """Returns a number with two decimals and the minus sign that matplotlib puts on axes."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def bound(k: int | str) -> str:
    """The name of L_k in mathematical type."""
    return f"$L_{{{f'{k:,}'.replace(',', '{,}') if isinstance(k, int) else k}}}$"


def show(axes: Any, image: np.ndarray, **arguments: Any) -> None:
    """Draws an image [height, width] or [height, width, 3] with values in [0, 1], pixel by pixel, without ticks."""
    axes.imshow(image, cmap=INK, vmin=0.0, vmax=1.0, **{"interpolation": "none", **arguments})
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


class Sheet:
    """A figure whose pictures have a place in pixels of a PNG file, so that each pixel of them is equally large.

    Args:
      width: the width in pixels.
      height: the height in pixels.
    """

    def __init__(self, width: int, height: int):
        self.figure = matplotlib.figure.Figure(figsize=(width / DPI, height / DPI))
        self._width, self._height = width, height

    def axes(self, left: int, top: int, width: int, height: int) -> Any:
        """Returns axes at a place, counted from the upper left corner."""
        bottom = self._height - top - height
        place = left / self._width, bottom / self._height, width / self._width, height / self._height
        return self.figure.add_axes(place)


def magnified(shape: tuple[int, int], most: tuple[int, int]) -> tuple[tuple[int, int], str]:
    """How large a picture is drawn.

    Args:
      shape: its height and width.
      most: the height and width that it may have.

    Returns:
      Its height and width in pixels of a PNG file: a multiple of its own, or, where it does not fit, those that it may
      have; and matplotlib's name of the interpolation.
    """
    magnification = min(most[0] // shape[0], most[1] // shape[1])
    if magnification:
        return (shape[0] * magnification, shape[1] * magnification), "none"
    height, width = (min(side * max(1, limit // side), limit) for side, limit in zip(shape, most, strict=True))
    return (height, width), "auto"
