"""Plots that compare runs with each other and with the paper."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from iwae_tf.figures import png

_LINE_COLORS = {"VAE": "C0", "IWAE": "C1"}
# The colours of odd and even layers, counted from the bottom.
_BAR_COLORS = {"ours": ("#1f77b4", "#9ecae1"), "published": ("#7f7f7f", "#c7c7c7")}


def save_validation_curves(path: str | pathlib.Path, curves: Sequence[Mapping[str, Any]]) -> None:
    """Draws the bounds of several runs against epochs and against minutes, as a PNG file.

    Args:
      path: the file.
      curves: for each run {"label": text, "epochs": [], "minutes": [], "bounds": [] in nats}; the lists are not empty.
    """
    figure = matplotlib.figure.Figure(figsize=(11, 4.6 + 0.22 * -(-len(curves) // 2)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    bottom, top = _settled_range([curve["bounds"] for curve in curves])
    for axes, quantity, label in zip(panels, ("epochs", "minutes"), ("epoch", "minutes of training"), strict=True):
        for i, curve in enumerate(curves):
            style = {"color": f"C{i % 10}", "linestyle": ("-", "--", ":", "-.")[i // 10 % 4], "label": curve["label"]}
            # A line through very few epochs would hardly be visible.
            axes.plot(curve[quantity], curve["bounds"], **style, linewidth=1.3, marker="." * (len(curve["bounds"]) < 5))
        axes.set(xlabel=label, ylim=(bottom, top))
        _scale_x(axes, curves, quantity, bottom)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("bound on log p(x) in nats")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False
    )
    png.save_figure(figure, path)


def _settled_range(curves):
    """The range of y to show. The first epochs rise so steeply that they would hide the rest, so they are cut off."""
    top = max(max(curve) for curve in curves)
    settled = min(np.median(curve) for curve in curves if 2 * len(curve) >= max(map(len, curves)))
    worst = min(max(curve) for curve in curves)  # A part of each curve has to be visible.
    bottom = min(settled, worst)
    margin = 0.1 * (top - bottom) + 0.5
    return bottom - 2.0 * margin, top + margin


def _scale_x(axes, curves, quantity, bottom):
    """Makes the x axis logarithmic if short runs would otherwise look like vertical lines next to long ones."""
    lengths = [curve[quantity][-1] for curve in curves]
    is_log = min(lengths) > 0.0 and max(lengths) > 5.0 * min(lengths)
    axes.set_xscale("log" if is_log else "linear")
    visible = [x for curve in curves for x, y in zip(curve[quantity], curve["bounds"], strict=True) if y > bottom]
    if is_log and min(visible) > 0.0:
        axes.set_xlim(left=0.9 * min(visible))
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    if quantity == "epochs" and not is_log:
        axes.xaxis.get_major_locator().set_params(integer=True)


def save_nll_against_k(path: str | pathlib.Path, panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draws the NLL against the number of samples k in training, measured and published, as a PNG file.

    Args:
      path: the file.
      panels: title -> list of lines {"label": "VAE" or "IWAE", "published": bool, "k": [], "nll": [] in nats, "sd": []
        over seeds, NaN for a single seed}; published lines need no "sd".
    """
    figure = matplotlib.figure.Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    for axes, (title, lines) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for line in lines:
            color = _LINE_COLORS[line["label"]]
            style = {"linestyle": "--", "marker": "o", "mfc": "white"} if line["published"] else {"marker": "o"}
            label = f"{line['label']}, published" if line["published"] else line["label"]
            bars = None if line["published"] else line["sd"]
            axes.errorbar(line["k"], line["nll"], bars, color=color, capsize=4, label=label, **style)
        counts = sorted({k for line in lines for k in line["k"]})
        axes.set(xscale="log", xlabel="samples k in training", ylabel="test NLL in nats", title=title)
        axes.set_xlim(0.8 * counts[0], 1.25 * counts[-1])
        axes.set_xticks(counts, labels=counts)
        axes.xaxis.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    png.save_figure(figure, path)


def save_active_units(path: str | pathlib.Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Draws active units as bars, measured next to published, with stacked layers, as a PNG file.

    Args:
      path: the file.
      cells: for each cell {"label": text, "ours": [] counts per layer or None, "published": [] or None}.
    """
    figure = matplotlib.figure.Figure(figsize=(max(5.0, 2.0 + 0.95 * len(cells)), 4.4), layout="constrained")
    axes = figure.subplots()
    num_layers = max(len(cell[name] or ()) for cell in cells for name in _BAR_COLORS)
    for shift, name in zip((-0.2, 0.2), _BAR_COLORS, strict=True):
        stacks = [(i + shift, cell[name]) for i, cell in enumerate(cells) if cell[name]]
        _draw_stacks(axes, stacks, name, num_layers)
    axes.set_xticks(range(len(cells)), labels=[cell["label"] for cell in cells], fontsize=9)
    axes.set_ylabel("active units")
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    middle, half = (len(cells) - 1) / 2.0, max(len(cells), 3) / 2.0 + 0.1
    axes.set_xlim(middle - half, middle + half)
    axes.margins(y=0.1)
    figure.legend(loc="outside upper center", ncols=4 if len(cells) > 5 else 2, fontsize=9, frameon=False)
    png.save_figure(figure, path)


def _draw_stacks(axes, stacks, name, num_layers):
    """Draws a list of (x, counts per layer) as stacked bars with their counts above."""
    for layer in range(num_layers):
        bars = [(x, units[layer], sum(units[:layer])) for x, units in stacks if len(units) > layer]
        if bars:
            label = f"{name}, layer {layer + 1}" if num_layers > 1 else name
            x, heights, bottoms = zip(*bars, strict=True)
            axes.bar(x, heights, 0.38, bottoms, color=_BAR_COLORS[name][layer % 2], label=label)
    for x, units in stacks:
        text = "+".join(f"{round(count, 1):g}" for count in units)
        axes.annotate(text, (x, sum(units)), (0, 2), textcoords="offset points", ha="center", fontsize=8)
