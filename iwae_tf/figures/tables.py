"""Pictures of tables: rows that a model draws beside the rows of the data."""

import pathlib
from collections.abc import Sequence

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from iwae_tf.figures import png

_DATA, _MODEL = "C0", "C1"
_MOST_MARGINALS, _MOST_PAIRS = 24, 5
_NUM_BINS = 30
_MOST_POINTS = 500
# The share of the data outside of the axes on each side; heavy tails would leave nothing to see.
_TAIL = 0.005


def save_marginals(
    path: str | pathlib.Path, data: np.ndarray, drawn: np.ndarray, columns: Sequence[str], title: str
) -> None:
    """Draws a histogram of each column, of the data and of the model, as a PNG file.

    Args:
      path: the file.
      data: float array [n, columns]; NaN is a missing value.
      drawn: rows from the model, float array [m, columns].
      columns: the names of the columns; the first 24 are drawn.
      title: the title of the model.
    """
    shown = columns[:_MOST_MARGINALS]
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = matplotlib.figure.Figure(figsize=(2.6 * across, 1.9 * down + 0.6), layout="constrained")
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    for axes in all_axes[len(shown) :]:
        axes.axis("off")
    for i, (axes, column) in enumerate(zip(all_axes, shown, strict=False)):
        values = data[~np.isnan(data[:, i]), i]
        bins = _bins(values if len(values) else drawn[:, i])
        axes.hist(values, bins, density=True, color=_DATA, alpha=0.5, label="data")
        axes.hist(drawn[:, i], bins, density=True, histtype="step", color=_MODEL, linewidth=1.5, label="model")
        axes.set_title(_short(column), fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    all_axes[0].legend(fontsize=7)
    more = f" (the first {len(shown)} of {len(columns)} columns)" if len(columns) > len(shown) else ""
    figure.suptitle(f"{title}: marginals{more}", fontsize=10)
    png.save_figure(figure, path)


def save_pairs(
    path: str | pathlib.Path, data: np.ndarray, drawn: np.ndarray, columns: Sequence[str], title: str
) -> None:
    """Draws pairs of columns: the data below the diagonal, the model above it, as a PNG file.

    Args:
      path: the file.
      data: float array [n, columns]; NaN is a missing value.
      drawn: rows from the model, float array [m, columns].
      columns: the names of the columns; those with the strongest correlations are drawn.
      title: the title of the model.
    """
    chosen = _most_correlated(data)
    side = len(chosen)
    figure = matplotlib.figure.Figure(figsize=(1.9 * side + 0.5, 1.9 * side + 0.6), layout="constrained")
    grid = figure.subplots(side, side, squeeze=False)
    limits = [_bins(data[~np.isnan(data[:, i]), i])[[0, -1]] for i in chosen]
    for row, vertical in enumerate(chosen):
        for column, horizontal in enumerate(chosen):
            axes = grid[row, column]
            if row == column:
                axes.text(0.5, 0.5, _short(columns[vertical]), ha="center", va="center", transform=axes.transAxes)
            else:
                stack, colour = (data, _DATA) if row > column else (drawn, _MODEL)
                points = stack[:_MOST_POINTS, [horizontal, vertical]]
                axes.plot(*points.T, ".", markersize=2, alpha=0.5, color=colour)
                axes.set(xlim=limits[column], ylim=limits[row])
            axes.set(xticks=[], yticks=[])
    figure.suptitle(f"{title}: data below the diagonal, model above", fontsize=10)
    png.save_figure(figure, path)


def _bins(values):
    """The edges of a histogram: one bin for each value of a few whole numbers, else equal ones."""
    low, high = np.quantile(values, [_TAIL, 1.0 - _TAIL]) if len(values) else (0.0, 1.0)
    if np.all(values == np.rint(values)) and high - low < _NUM_BINS:
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    margin = 0.1 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, _NUM_BINS + 1)


def _most_correlated(data):
    """The columns in the strongest pairs of correlations, at most five, in their order."""
    filled = np.where(np.isnan(data), np.nanmean(data, axis=0, where=~np.isnan(data)), data)
    deviations = filled - filled.mean(axis=0)
    norms = np.sqrt(np.square(deviations).sum(axis=0))
    strength = np.abs(deviations.T @ deviations / np.maximum(np.outer(norms, norms), 1e-30))
    pairs = np.argsort(-np.triu(strength, k=1), axis=None)
    chosen: list[int] = []
    for pair in np.column_stack(np.unravel_index(pairs, strength.shape)).ravel().tolist():
        if pair not in chosen and len(chosen) < min(_MOST_PAIRS, data.shape[1]):
            chosen.append(pair)
    return sorted(chosen)


def _short(name):
    return name if len(name) <= 18 else f"{name[:17]}…"


def save_scores(path: str | pathlib.Path, scores: np.ndarray, test: np.ndarray | None, name: str) -> None:
    """Draws histograms of log p(x) of new data and of a run's test data, as a PNG file.

    Args:
      path: the file.
      scores: log p(x) in nats, float array [n]; values that are not finite are left out.
      test: those of the test data, or None.
      name: what the new data are.
    """
    stacks = [(scores, name, _MODEL), *([] if test is None else [(test, "the run's test data", _DATA)])]
    finite = [(stack[np.isfinite(stack)], label, colour) for stack, label, colour in stacks]
    everything = np.concatenate([stack for stack, *_ in finite])
    low, high = np.quantile(everything, [0.001, 1.0]) if len(everything) else (0.0, 1.0)
    bins = np.linspace(low, high, 61)
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for stack, label, colour in finite:
        axes.hist(np.clip(stack, low, high), bins.tolist(), density=True, alpha=0.6, label=_short(label), color=colour)
    axes.set(xlabel="log p(x) in nats", ylabel="density")
    axes.legend()
    png.save_figure(figure, path)
