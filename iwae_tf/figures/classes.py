"""Plots of test images by their class: embeddings of posterior means, and NLLs."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.patheffects
import numpy as np

from iwae_tf.figures import output, style

# Of the points, where colours repeat.
_MARKERS = "o^sD"


@style.look()
def save_embeddings(
    path: output.Paths, rows: Mapping[str, Mapping[str, np.ndarray]], labels: np.ndarray | None, title: str
) -> None:
    """Draws points in the plane, one row of panels per layer and one column per method.

    Args:
      path: the file or files.
      rows: layer -> method -> points, float array [n, 2]; all layers have the same methods.
      labels: the class of each point, [n], which is written where its points are; or None.
      title: the title of the model.
    """
    methods = list(next(iter(rows.values())))
    width = style.PAGE if len(methods) > 1 else style.COLUMN
    figure = style.figure(width, 0.95 * width / len(methods) * len(rows) + 0.3)
    figure.suptitle(title)
    for panels, (layer, embeddings) in zip(
        figure.subplots(len(rows), len(methods), squeeze=False), rows.items(), strict=True
    ):
        for axes, (method, points) in zip(panels, embeddings.items(), strict=True):
            _draw_points(axes, points, labels)
            axes.set(xticks=[], yticks=[], title=f"{layer}, {method}")
            axes.spines[:].set_visible(True)
    output.save_figure(figure, path)


def _draw_points(axes, points, labels):
    """One panel; the names of the classes are above all points."""
    form = {"linestyle": "none", "markersize": 2.0, "markeredgewidth": 0.0, "alpha": 0.6}
    if labels is None:
        axes.plot(*points.T, marker="o", color=style.BLUE, **form)
        return
    outline = [matplotlib.patheffects.withStroke(linewidth=2.0, foreground="white")]
    for i, label in enumerate(np.unique(labels)):
        of_class = points[labels == label]
        color, marker = style.COLORS[i % len(style.COLORS)], _MARKERS[i // len(style.COLORS) % len(_MARKERS)]
        axes.plot(*of_class.T, marker=marker, color=color, label=str(label), **form)
        place = np.median(of_class, axis=0)
        axes.text(*place, str(label), color=color, weight="bold", ha="center", va="center", path_effects=outline)


@style.look()
def save_nll_by_class(path: output.Paths, rows: Sequence[Mapping[str, Any]], mean: float, title: str) -> None:
    """Draws the mean NLL of each class with its standard error.

    Args:
      path: the file or files.
      rows: for each class {"label": text, "mean": nats, "stderr": nats over its images, or None}.
      mean: the mean over all images, in nats.
      title: the title of the model.
    """
    figure = style.figure(style.COLUMN, 2.3)
    axes = figure.subplots()
    places = np.arange(len(rows))
    means, errors = (np.array([row[name] or 0.0 for row in rows]) for name in ("mean", "stderr"))
    axes.errorbar(places, means, errors, linestyle="none", marker="o", label="class, with standard error")
    axes.axhline(mean, color=style.VERMILION, linestyle="--", label=f"all test images: {mean:.2f}")
    axes.set_xticks(places, [row["label"] for row in rows])
    axes.set(xlabel="class", ylabel="test NLL in nats", title=title)
    axes.margins(y=0.15)
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    output.save_figure(figure, path)
