"""Plots of one run: learning curves, L_k against k, gradients."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import numpy as np

from iwae_tf.figures import png


def save_learning_curves(path: str | pathlib.Path, history: Mapping[str, Sequence[float]], title: str, k: int) -> None:
    """Draws the bounds against epochs, as a PNG file.

    Args:
      path: the file.
      history: column -> one value per epoch, for the columns of `runs.HISTORY_COLUMNS`.
      title: the title of the model.
      k: the number of samples of the importance weighted bound.
    """
    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    epochs = history["epoch"]
    for bound, label, color in (("iwae_bound", f"L_{k}", "C0"), ("elbo", "ELBO", "C1")):
        axes.plot(epochs, history[f"train_{bound}"], color=color, linestyle=":", label=f"{label}, training")
        axes.plot(epochs, history[f"validation_{bound}"], color=color, label=f"{label}, validation")
    # The first epochs rise so steeply that they would hide the rest, so they are cut off.
    settled = history["validation_elbo"][len(epochs) // 10 :]
    top = max(max(history[f"{split}_iwae_bound"]) for split in ("train", "validation"))
    axes.set_ylim(bottom=min(settled) - 0.1 * (top - min(settled)) - 1.0, top=top + 1.0)
    axes.set(xlabel="epoch", ylabel="bound on log p(x) in nats", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    png.save_figure(figure, path)


def save_bound_curve(path: str | pathlib.Path, rows: Sequence[Mapping[str, Any]], corrected: float, title: str) -> None:
    """Draws L_k against k, as a PNG file. Where the curve is flat, more samples would not change the bound.

    Args:
      path: the file.
      rows: for each number of samples {"k": int, "mean": nats, "stderr": nats over the images, or None}.
      corrected: the last mean without its bias of order 1/k, in nats.
      title: the title of the model.
    """
    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    counts, values, stderrs = (np.array([row[name] or 0.0 for row in rows]) for name in ("k", "mean", "stderr"))
    axes.fill_between(counts, values - stderrs, values + stderrs, alpha=0.2, label="standard error over the images")
    axes.plot(counts, values, marker="o", label="L_k of the test images")
    label = f"L_{counts[-1]:,} corrected: {corrected:.2f}"
    axes.axhline(corrected, color="C1", linestyle=":", label=label)
    axes.annotate(f"{values[-1]:.2f}", (counts[-1], values[-1]), textcoords="offset points", xytext=(-30, -14))
    axes.set(xscale="log", xlabel="samples k", ylabel="bound on log p(x) in nats", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    png.save_figure(figure, path)


def save_annealing(
    path: str | pathlib.Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], content: Mapping[str, Any]
) -> None:
    """Draws L_k against k beside log p(x) by annealed importance sampling, as a PNG file.

    Args:
      path: the file.
      curves: set of images ("test", "simulated") -> rows {"k": int, "mean": nats, "stderr": nats}.
      content: the content of ais.json.
    """
    figure = matplotlib.figure.Figure(figsize=(6.0 * len(curves), 4.5), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        measured = content[name]
        axes.plot([row["k"] for row in rows], [row["mean"] for row in rows], marker="o", label="L_k")
        low = measured["log_likelihood"]["mean"]
        axes.axhline(low, color="C1", label=f"annealed importance sampling: {low:.2f}")
        if "upper" in measured:
            high = measured["upper"]["mean"]
            axes.axhspan(low, high, color="C1", alpha=0.25, label=f"up to the upper bound: {high:.2f}")
        else:
            error = measured["stderr_of_chains"]
            axes.axhspan(low - error, low + error, color="C1", alpha=0.25, label="standard error of the chains")
        # The steep beginning of the curve would hide the rest.
        shown = [row for row in rows if row["k"] >= 10] or rows
        top = measured.get("upper", measured["log_likelihood"])["mean"]
        means = [row["mean"] for row in shown]
        axes.set_xlim(0.8 * shown[0]["k"], 1.3 * shown[-1]["k"])
        axes.set_ylim(min(low, *means) - 0.3, max(top, *means) + 0.4)
        title = f"{measured['num_images']} {name} images"
        axes.set(xscale="log", xlabel="samples k", ylabel="log p(x) in nats", title=title)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    png.save_figure(figure, path)


def save_gradients(path: str | pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the variance and signal-to-noise ratio of gradient estimators against k, for both networks, as a PNG file.

    Args:
      path: the file.
      rows: dictionaries with "network", "estimator", "k", "variance" and "signal_to_noise".
    """
    figure = matplotlib.figure.Figure(figsize=(9, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    quantities = {"signal_to_noise": "signal-to-noise ratio", "variance": "variance of a parameter's gradient"}
    for column, network in zip(panels.T, ("inference", "generative"), strict=True):
        network_rows = [row for row in rows if row["network"] == network]
        for axes, (quantity, label) in zip(column, quantities.items(), strict=True):
            for estimator in dict.fromkeys(row["estimator"] for row in network_rows):
                points = [(row["k"], row[quantity]) for row in network_rows if row["estimator"] == estimator]
                axes.plot(*zip(*points, strict=True), marker="o", label=estimator)
            axes.set(xscale="log", yscale="log", title=f"{network} network", ylabel=label, xlabel="k")
            counts = sorted({row["k"] for row in network_rows})
            axes.set_xticks(counts, labels=counts)
            axes.xaxis.minorticks_off()
            axes.grid(alpha=0.3)
    panels[0, 1].legend()
    png.save_figure(figure, path)
