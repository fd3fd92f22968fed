"""Plots of one run: learning curves, L_k against k, gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
import numpy as np

from iwae_tf.figures import output, style


@style.look()
def save_learning_curves(path: output.Paths, history: Mapping[str, Sequence[float]], title: str, k: int) -> None:
    """Draws the bounds against epochs.

    Args:
      path: the file or files.
      history: column -> one value per epoch, for the columns of `runs.HISTORY_COLUMNS`.
      title: the title of the model.
      k: the number of samples of the importance weighted bound.
    """
    figure = style.figure(style.COLUMN, 2.8)
    axes = figure.subplots()
    epochs = history["epoch"]
    for bound, label, color in (("iwae_bound", style.bound(k), style.BLUE), ("elbo", "ELBO", style.VERMILION)):
        axes.plot(epochs, history[f"train_{bound}"], color=color, linestyle=":", label=f"{label}, training")
        axes.plot(epochs, history[f"validation_{bound}"], color=color, label=f"{label}, validation")
    # The first epochs rise so steeply that they would hide the rest, so they are cut off.
    settled = history["validation_elbo"][len(epochs) // 10 :]
    top = max(max(history[f"{split}_iwae_bound"]) for split in ("train", "validation"))
    axes.set_ylim(bottom=min(settled) - 0.1 * (top - min(settled)) - 1.0, top=top + 1.0)
    axes.set(xlabel="epoch", ylabel=r"bound on $\log p(x)$ in nats", title=title)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    output.save_figure(figure, path)


@style.look()
def save_bound_curve(
    path: output.Paths, rows: Sequence[Mapping[str, Any]], corrected: float, title: str, noun: str = "images"
) -> None:
    """Draws L_k against k. Where the curve is flat, more samples would not change the bound.

    Args:
      path: the file or files.
      rows: for each number of samples {"k": int, "mean": nats, "stderr": nats over the images, or None}.
      corrected: the last mean without its bias of order 1/k, in nats.
      title: the title of the model.
      noun: what the test data are, such as "images".
    """
    figure = style.figure(style.COLUMN, 2.8)
    axes = figure.subplots()
    counts, values, stderrs = (np.array([row[name] or 0.0 for row in rows]) for name in ("k", "mean", "stderr"))
    axes.fill_between(counts, values - stderrs, values + stderrs, alpha=0.2, label=f"standard error over the {noun}")
    axes.plot(counts, values, marker="o", label=f"{style.bound('k')} of the test {noun}")
    label = f"{style.bound(int(counts[-1]))} corrected: {style.number(corrected)}"
    axes.axhline(corrected, color=style.VERMILION, linestyle=":", label=label)
    axes.annotate(style.number(values[-1]), (counts[-1], values[-1]), (-2, -10), textcoords="offset points", ha="right")
    axes.set(xscale="log", xlabel="samples k", ylabel=r"bound on $\log p(x)$ in nats", title=title)
    axes.grid()
    figure.legend(loc="outside lower center", frameon=False)
    output.save_figure(figure, path)


@style.look()
def save_annealing(
    path: output.Paths, curves: Mapping[str, Sequence[Mapping[str, Any]]], content: Mapping[str, Any]
) -> None:
    """Draws L_k against k beside log p(x) by annealed importance sampling.

    Args:
      path: the file or files.
      curves: set of images ("test", "simulated") -> rows {"k": int, "mean": nats, "stderr": nats}.
      content: the content of ais.json.
    """
    figure = style.figure(style.COLUMN * len(curves), 2.7)
    for axes, (name, rows) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        measured = content[name]
        axes.plot([row["k"] for row in rows], [row["mean"] for row in rows], marker="o", label=style.bound("k"))
        low = measured["log_likelihood"]["mean"]
        axes.axhline(low, color=style.VERMILION, label=f"annealed importance sampling: {low:.2f}")
        if "upper" in measured:
            high = measured["upper"]["mean"]
            axes.axhspan(low, high, color=style.VERMILION, alpha=0.25, label=f"up to the upper bound: {high:.2f}")
        else:
            error = measured["stderr_of_chains"]
            label = "standard error of the chains"
            axes.axhspan(low - error, low + error, color=style.VERMILION, alpha=0.25, label=label)
        # The steep beginning of the curve would hide the rest.
        shown = [row for row in rows if row["k"] >= 10] or rows
        top = measured.get("upper", measured["log_likelihood"])["mean"]
        means = [row["mean"] for row in shown]
        axes.set_xlim(0.8 * shown[0]["k"], 1.3 * shown[-1]["k"])
        axes.set_ylim(min(low, *means) - 0.3, max(top, *means) + 0.4)
        title = f"{measured['num_images']} {name} images"
        axes.set(xscale="log", xlabel="samples k", ylabel=r"$\log p(x)$ in nats", title=title)
        axes.grid()
        axes.legend(loc="lower right")
    output.save_figure(figure, path)


@style.look()
def save_gradients(path: output.Paths, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the variance and signal-to-noise ratio of gradient estimators against k, for both networks.

    Args:
      path: the file or files.
      rows: dictionaries with "network", "estimator", "k", "variance" and "signal_to_noise".
    """
    figure = style.figure(style.PAGE, 4.8)
    panels = figure.subplots(2, 2, sharex=True)
    quantities = {"signal_to_noise": "signal-to-noise ratio", "variance": "variance of a parameter's gradient"}
    for column, network in zip(panels.T, ("inference", "generative"), strict=True):
        network_rows = [row for row in rows if row["network"] == network]
        for axes, (quantity, label) in zip(column, quantities.items(), strict=True):
            for i, estimator in enumerate(dict.fromkeys(row["estimator"] for row in network_rows)):
                points = [(row["k"], row[quantity]) for row in network_rows if row["estimator"] == estimator]
                axes.plot(*zip(*points, strict=True), **style.line(i), marker="o", label=estimator)
            axes.set(xscale="log", yscale="log", title=f"{network} network", ylabel=label, xlabel="k")
            counts = sorted({row["k"] for row in network_rows})
            axes.set_xticks(counts, labels=counts)
            axes.xaxis.minorticks_off()
            axes.grid()
    panels[0, 1].legend()
    output.save_figure(figure, path)
