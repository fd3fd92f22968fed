"""Pictures of tables: rows that a model draws beside the rows of the data."""

from collections.abc import Sequence

import matplotlib.ticker
import numpy as np

from iwae_tf.figures import output, style

_DATA, _MODEL = style.BLUE, style.VERMILION
_MOST_MARGINALS, _MOST_PAIRS = 24, 5
_NUM_BINS = 30
_MOST_POINTS = 500
# The share of the data outside of the axes on each side; heavy tails would leave nothing to see.
_TAIL = 0.005
# Scores further below the quartiles than this many times their distance are outliers.
_WIDEST = 10.0


@style.look()
def save_marginals(path: output.Paths, data: np.ndarray, drawn: np.ndarray, columns: Sequence[str], title: str) -> None:
    """Draws a histogram of each column, of the data and of the model.

    Args:
      path: the file or files.
      data: float array [n, columns]; NaN is a missing value.
      drawn: rows from the model, float array [m, columns].
      columns: the names of the columns; the first 24 are drawn.
      title: the title of the model.
    """
    shown = columns[:_MOST_MARGINALS]
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = style.figure(style.PAGE / 4.0 * max(2, across), 1.3 * down + 0.5)
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    for axes in all_axes[len(shown) :]:
        axes.axis("off")
    for i, (axes, column) in enumerate(zip(all_axes, shown, strict=False)):
        values = data[~np.isnan(data[:, i]), i]
        bins = _bins(values if len(values) else drawn[:, i])
        axes.hist(values, bins, density=True, color=_DATA, alpha=0.5, label="data")
        axes.hist(drawn[:, i], bins, density=True, histtype="step", color=_MODEL, label="model")
        axes.set_title(_short(column), parse_math=False)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    all_axes[0].legend(fontsize=style.TINY)
    more = f" (the first {len(shown)} of {len(columns)} columns)" if len(columns) > len(shown) else ""
    figure.suptitle(f"{title}: marginals{more}")
    output.save_figure(figure, path)


@style.look()
def save_pairs(path: output.Paths, data: np.ndarray, drawn: np.ndarray, columns: Sequence[str], title: str) -> None:
    """Draws pairs of columns: the data below the diagonal, the model above it.

    Args:
      path: the file or files.
      data: float array [n, columns]; NaN is a missing value.
      drawn: rows from the model, float array [m, columns].
      columns: the names of the columns; those with the strongest correlations are drawn.
      title: the title of the model.
    """
    chosen = _most_correlated(data)
    side = len(chosen)
    figure = style.figure(1.35 * max(2, side) + 0.25, 1.35 * side + 0.4)
    grid = figure.subplots(side, side, squeeze=False)
    limits = [_bins(data[~np.isnan(data[:, i]), i])[[0, -1]] for i in chosen]
    for row, vertical in enumerate(chosen):
        for column, horizontal in enumerate(chosen):
            axes = grid[row, column]
            if row == column:
                name = _short(columns[vertical])
                axes.text(0.5, 0.5, name, ha="center", va="center", transform=axes.transAxes, parse_math=False)
            else:
                stack, colour = (data, _DATA) if row > column else (drawn, _MODEL)
                points = stack[:_MOST_POINTS, [horizontal, vertical]]
                axes.plot(*points.T, ".", markersize=2, alpha=0.5, color=colour)
                axes.set(xlim=limits[column], ylim=limits[row])
            axes.set(xticks=[], yticks=[])
    figure.suptitle(f"{title}: data below the diagonal, model above")
    output.save_figure(figure, path)


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


def _short(name, length=18):
    return name if len(name) <= length else f"{name[: length - 1]}…"


@style.look()
def save_scores(path: output.Paths, scores: np.ndarray, test: np.ndarray | None, name: str) -> None:
    """Draws histograms of log p(x) of new data and of a run's test data.

    Args:
      path: the file or files.
      scores: log p(x) in nats, float array [n]; values that are not finite are left out, and outliers on the left
        are counted in the first bar.
      test: those of the test data, or None.
      name: what the new data are.
    """
    stacks = [(scores, name, _MODEL), *([] if test is None else [(test, "the run's test data", _DATA)])]
    finite = [(stack[np.isfinite(stack)], label, colour) for stack, label, colour in stacks]
    everything = np.concatenate([stack for stack, *_ in finite])
    low = min((_left_end(stack) for stack, *_ in finite if len(stack)), default=0.0)
    high = everything.max(initial=low)
    bins = np.histogram_bin_edges([low, high], 60)
    figure = style.figure(style.COLUMN, 2.3)
    axes = figure.subplots()
    for stack, label, colour in finite:
        name = _short(label, 45).replace("$", r"\$")
        axes.hist(np.clip(stack, low, high), bins.tolist(), density=True, alpha=0.6, label=name, color=colour)
    lower = int(np.sum(everything < low))
    note = f" (the first bar includes {lower:,} below it)" if lower else ""
    axes.set(xlabel=rf"$\log p(x)$ in nats{note}", ylabel="density")
    figure.legend(loc="outside upper center", ncols=1, frameon=False)
    output.save_figure(figure, path)


def _left_end(values):
    """The lowest value, or where outliers begin that would squeeze all others into a few bars."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    return max(values.min(), lower - _WIDEST * (upper - lower))
