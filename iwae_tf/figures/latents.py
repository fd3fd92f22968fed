"""Plots of latent units: variances and KL, traversals, posteriors."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from iwae_tf.figures import output, style
from iwae_tf.figures.images import image_grid

# The colours of active and inactive units.
_ACTIVE, _INACTIVE = style.BLUE, style.SILVER
# Smaller variances, including zero, are drawn as this one on a logarithmic axis.
_LEAST_VARIANCE = 1e-12
# Pixels of a PNG file: the width of the labels of a traversal, and the largest height of its rows.
_LABELS, _MOST_ROW = 336, 72


@style.look()
def save_units(path: output.Paths, layers: Sequence[Mapping[str, Any]], threshold: float, title: str) -> None:
    """Draws the variances and KLs of all units, one row per layer.

    From left to right: a histogram of the variances, the number of active units against the threshold, and the KL of
    each unit.

    Args:
      path: the file or files.
      layers: for each layer, bottom first, {"variances": Cov_x(E_q[u]) of each unit, "kls": nats of each unit}; None
        and values that are not finite are drawn as zero.
      threshold: the variance above which a unit counts as active.
      title: the title of the model.
    """
    figure = style.figure(style.PAGE, 2.1 * len(layers) + 0.3)
    figure.suptitle(title)
    variances, kls = (
        [np.nan_to_num(np.array(layer[name], np.float64), posinf=0.0, neginf=0.0) for layer in layers]
        for name in ("variances", "kls")
    )
    logs = [np.log10(np.maximum(layer_variances, _LEAST_VARIANCE)) for layer_variances in variances]
    limits = min(np.log10(threshold), *map(np.min, logs)) - 0.3, max(np.log10(threshold), *map(np.max, logs)) + 0.3
    for number, (log_variances, layer_kls, row) in enumerate(
        zip(logs, kls, figure.subplots(len(layers), 3, squeeze=False), strict=True), start=1
    ):
        _draw_variances(row[0], log_variances, threshold, limits)
        row[0].set_ylabel(f"layer {number}: units")
        _draw_counts(row[1], log_variances, threshold, limits)
        _draw_kls(row[2], layer_kls, log_variances > np.log10(threshold))
    output.save_figure(figure, path)


def _draw_variances(axes, log_variances, threshold, limits):
    """A histogram of log10 variances."""
    axes.hist(log_variances, bins=np.linspace(*limits, 31), color=_ACTIVE)
    axes.axvline(np.log10(threshold), color="black", linestyle=":")
    axes.set_title(f"dotted: threshold {threshold:g}", fontsize=style.SMALL)
    axes.set(xlim=limits, xlabel=r"$\log_{10}$ variance of a unit's mean")
    axes.yaxis.get_major_locator().set_params(integer=True)


def _draw_counts(axes, log_variances, threshold, limits):
    """The number of active units against the threshold."""
    ascending = np.sort(log_variances)
    active = int(np.sum(log_variances > np.log10(threshold)))
    steps = 10.0 ** np.array([limits[0], *ascending, limits[1]])
    counts = np.array([*range(len(ascending), -1, -1), 0])
    axes.step(steps, counts, where="post", color=_ACTIVE)
    axes.axvline(threshold, color="black", linestyle=":")
    label = f"{active} of {len(ascending)} active"
    axes.plot(threshold, active, "o", color="black", label=label)
    axes.set(xscale="log", xlim=steps[[0, -1]], ylim=(0, None), xlabel="threshold", ylabel="active units")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid()
    axes.legend(loc="upper right")


def _draw_kls(axes, kls, active):
    """The KLs of the units as bars, the largest first."""
    order = np.argsort(-kls)
    colors = np.where(active[order], _ACTIVE, _INACTIVE)
    axes.bar(np.arange(1, len(kls) + 1), kls[order], width=1.0 if len(kls) > 30 else 0.8, color=colors)
    labels = (
        (_ACTIVE, f"active: {kls[active].sum():.2f} nats"),
        (_INACTIVE, f"not: {kls[~active].sum():.2f} nats"),
    )
    for color, label in labels:
        axes.bar([1], [0.0], color=color, label=label)
    axes.set(xlabel="units, sorted", ylabel="KL in nats")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")
    axes.legend()


@style.look()
def save_traversal(
    path: output.Paths,
    images: np.ndarray,
    labels: Sequence[str],
    stddevs: Sequence[float] | np.ndarray,
    pixels: np.ndarray,
) -> None:
    """Draws how single units change images, one row per unit.

    Args:
      path: the file or files.
      images: the images whose posterior means are the starting points, [num_images, height, width] or
        [num_images, height, width, 3].
      labels: one text per row.
      stddevs: for each column, the distance of the unit from its mean, in standard deviations.
      pixels: the pixel means, [num_images, rows, columns, height, width] or [..., 3].
    """
    num_images, rows, columns, *shape = pixels.shape
    height, width = shape[:2]
    grids = [image_grid(image_pixels.reshape(-1, *shape), columns) for image_pixels in pixels]
    left, gap, bottom = _LABELS, style.DPI // 10, int(0.4 * style.DPI)
    most = int((style.PAGE * style.DPI - left - (num_images - 1) * gap) / max(2, num_images))
    (high, wide), interpolation = style.magnified(grids[0].shape[:2], (rows * _MOST_ROW, most))
    # The images above are twice as large as those in the grids.
    row, column = 2 * high * height // grids[0].shape[0], 2 * wide * width // grids[0].shape[1]
    sheet = style.Sheet(left + num_images * (wide + gap), gap + row + gap + high + bottom)
    places = [left + i * (wide + gap) for i in range(num_images)]
    for place, image in zip(places, images, strict=True):
        axes = sheet.axes(place + (wide - column) // 2, gap, column, row)
        style.show(axes, image, aspect="auto", interpolation=interpolation)
    for place, grid in zip(places, grids, strict=True):
        axes = sheet.axes(place, gap + row + gap, wide, high)
        style.show(axes, grid, aspect="auto", interpolation=interpolation)
        axes.set_xticks(
            (np.arange(columns) + 0.5) * (width + 1), [f"{distance:+.1f}" if distance else "0" for distance in stddevs]
        )
        axes.set_yticks((np.arange(rows) + 0.5) * (height + 1), labels if place == left else [])
        axes.tick_params(length=0, labelsize=style.TINY)
        axes.tick_params(axis="x", labelsize=style.TINY - 1.0)
        axes.set_xlabel("standard deviations from the unit's mean", fontsize=style.SMALL)
    output.save_figure(sheet.figure, path)


@style.look()
def save_posteriors(path: output.Paths, images: np.ndarray, posteriors: Sequence[Any], title: str) -> None:
    """Draws the true posterior of each image with q(z | x) on top.

    Args:
      path: the file or files.
      images: [num_images, height, width].
      posteriors: one `evaluation.latents.Posterior` per image.
      title: the title of the model.
    """
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = style.figure(style.PAGE / 3.0 * max(2, columns), 2.5 * rows + 0.4)
    figure.suptitle(
        f"{title}: the true posterior $p(z | x)$ (blue), and\n$q(z | x)$ at 1, 2 and 3 standard deviations (orange)"
    )
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes[len(images) :]:
        axes.axis("off")
    for axes, image, posterior in zip(all_axes, images, posteriors, strict=False):
        _draw_posterior(axes, posterior)
        corner = axes.inset_axes([0.02, 0.76, 0.22, 0.22])
        style.show(corner, image)
    output.save_figure(figure, path)


def _draw_posterior(axes, posterior):
    """A true posterior, q on top, and the divergence between them."""
    low, high, density = posterior.low, posterior.high, posterior.density.T
    colours = matplotlib.colormaps[style.SHADES]
    axes.set_facecolor(colours(0.0))
    extent = (low[0], high[0], low[1], high[1])
    axes.imshow(density, origin="lower", extent=extent, cmap=colours, interpolation="bilinear")
    # For a Gaussian, these contours are the ellipses of 1, 2 and 3 standard deviations.
    levels = density.max() * np.exp(-0.5 * np.square([3.0, 2.0, 1.0]))
    axes.contour(density, levels=levels, extent=extent, colors=style.BLUE, linewidths=0.6)
    angle = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = posterior.stddev[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)])
    for radius in (1.0, 2.0, 3.0):
        axes.plot(*(posterior.mean[:, np.newaxis] + radius * circle), color=style.VERMILION)
    # Show everything inside the outermost lines, with the same scale on both axes.
    inside = np.argwhere(posterior.density > levels[0]) / (len(density) - 1)
    ends = [posterior.mean - 3.0 * posterior.stddev, posterior.mean + 3.0 * posterior.stddev]
    ends += [low + end * (high - low) for end in (inside.min(axis=0), inside.max(axis=0))]
    middle, half = (np.max(ends, axis=0) + np.min(ends, axis=0)) / 2.0, 0.58 * np.max(np.ptp(ends, axis=0))
    axes.set(xlim=middle[0] + half * np.array([-1, 1]), ylim=middle[1] + half * np.array([-1, 1]), aspect="equal")
    text = f"$\\log p(x)$ {posterior.log_likelihood:.2f}   ELBO {posterior.elbo:.2f}\n"
    axes.set_title(f"{text}KL(q || p) {posterior.kl:.2f} nats", fontsize=style.SMALL)
    axes.set(xlabel="unit 1", ylabel="unit 2")
