"""Plots that compare runs with each other and with the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np

from iwae_tf.figures import output, style

_LINE_COLORS = {"VAE": style.BLUE, "IWAE": style.VERMILION}
# The colours of odd and even layers, counted from the bottom.
_BAR_COLORS = {"ours": (style.BLUE, style.SKY), "published": (style.GREY, style.SILVER)}


@style.look()
def save_validation_curves(path: output.Paths, curves: Sequence[Mapping[str, Any]]) -> None:
    """Draws the bounds of several runs against epochs and against minutes.

    Args:
      path: the file or files.
      curves: for each run {"label": text, "epochs": [], "minutes": [], "bounds": [] in nats}; the lists are not empty.
    """
    figure = style.figure(style.PAGE, 2.7 + 0.15 * -(-len(curves) // 2))
    panels = figure.subplots(1, 2, sharey=True)
    bottom, top = _settled_range([curve["bounds"] for curve in curves])
    for axes, quantity, label in zip(panels, ("epochs", "minutes"), ("epoch", "minutes of training"), strict=True):
        for i, curve in enumerate(curves):
            # A line through very few epochs would hardly be visible.
            marker = "." * (len(curve["bounds"]) < 5)
            axes.plot(curve[quantity], curve["bounds"], **style.line(i), label=curve["label"], marker=marker)
        axes.set(xlabel=label, ylim=(bottom, top))
        _scale_x(axes, curves, quantity, bottom)
        axes.grid()
    panels[0].set_ylabel(r"bound on $\log p(x)$ in nats")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    output.save_figure(figure, path)


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


@style.look()
def save_nll_against_k(path: output.Paths, panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draws the NLL against the number of samples k in training, measured and published.

    Args:
      path: the file or files.
      panels: title -> list of lines {"label": "VAE" or "IWAE", "published": bool, "k": [], "nll": [] in nats, "sd": []
        over seeds, NaN for a single seed}; published lines need no "sd".
    """
    figure = style.figure(style.COLUMN * len(panels), 2.7)
    for axes, (title, lines) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for line in lines:
            color = _LINE_COLORS[line["label"]]
            form = {"linestyle": "--", "marker": "o", "mfc": "white"} if line["published"] else {"marker": "o"}
            label = f"{line['label']}, published" if line["published"] else line["label"]
            has_bars = not line["published"] and not np.isnan(line["sd"]).all()
            bars = line["sd"] if has_bars else None
            axes.errorbar(line["k"], line["nll"], bars, color=color, label=label, **form)
        counts = sorted({k for line in lines for k in line["k"]})
        axes.set(xscale="log", xlabel="samples k in training", ylabel="test NLL in nats", title=title)
        axes.set_xlim(0.8 * counts[0], 1.25 * counts[-1])
        axes.set_xticks(counts, labels=counts)
        axes.xaxis.minorticks_off()
        axes.grid()
    entries = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = 4 if len(panels) > 1 else 2
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False)
    output.save_figure(figure, path)


@style.look()
def save_active_units(path: output.Paths, cells: Sequence[Mapping[str, Any]]) -> None:
    """Draws active units as bars, measured next to published, with stacked layers.

    Args:
      path: the file or files.
      cells: for each cell {"label": text, "ours": [] counts per layer or None, "published": [] or None}.
    """
    figure = style.figure(max(style.COLUMN, min(style.PAGE, 1.0 + 0.6 * len(cells))), 2.7)
    axes = figure.subplots()
    num_layers = max(len(cell[name] or ()) for cell in cells for name in _BAR_COLORS)
    for shift, name in zip((-0.2, 0.2), _BAR_COLORS, strict=True):
        stacks = [(i + shift, cell[name]) for i, cell in enumerate(cells) if cell[name]]
        _draw_stacks(axes, stacks, name, num_layers)
    axes.set_xticks(range(len(cells)), labels=[cell["label"] for cell in cells], fontsize=style.TINY)
    axes.set_ylabel("active units")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    middle, half = (len(cells) - 1) / 2.0, max(len(cells), 3) / 2.0 + 0.1
    axes.set_xlim(middle - half, middle + half)
    axes.margins(y=0.1)
    figure.legend(loc="outside upper center", ncols=4 if len(cells) > 5 else 2, frameon=False)
    output.save_figure(figure, path)


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
        axes.annotate(text, (x, sum(units)), (0, 2), textcoords="offset points", ha="center", fontsize=style.TINY)
