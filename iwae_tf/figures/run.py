"""Plots of one run: learning curves, L_k against k, gradients."""

import matplotlib.figure
import numpy as np

from iwae_tf.figures import png


def save_learning_curves(path, history, title, k):
    """Draws the bounds against epochs as a PNG file.

    Args:
      path: the file.
      history: columns by name as `runs.HISTORY_COLUMNS` names them, each a sequence with a value an epoch.
      title: the model's.
      k: the number of samples of the importance weighted bound.
    """
    figure = matplotlib.figure.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    epochs = history["epoch"]
    for bound, label, color in (("iwae_bound", f"L_{k}", "C0"), ("elbo", "ELBO", "C1")):
        axes.plot(epochs, history[f"train_{bound}"], color=color, linestyle=":", label=f"{label}, training")
        axes.plot(epochs, history[f"validation_{bound}"], color=color, label=f"{label}, validation")
    # The first epochs fall so steeply that they would hide all that follows.
    settled = history["validation_elbo"][len(epochs) // 10 :]
    top = max(max(history[f"{split}_iwae_bound"]) for split in ("train", "validation"))
    axes.set_ylim(bottom=min(settled) - 0.1 * (top - min(settled)) - 1.0, top=top + 1.0)
    axes.set(xlabel="epoch", ylabel="bound on log p(x) in nats", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    png.save_figure(figure, path)


def save_bound_curve(path, rows, corrected, title):
    """Draws L_k against k as a PNG file: where it is flat, more samples would change nothing.

    Args:
      path: the file.
      rows: for each number of samples {"k": it, "mean": nats, "stderr": over the images, or None}.
      corrected: the last one's mean without its bias of order 1/k, in nats.
      title: the model's.
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


def save_gradients(path, rows):
    """Draws variance and signal-to-noise ratio of gradient estimators against k, for both networks, as a PNG file.

    Args:
      path: the file.
      rows: dictionaries with "network", "estimator", "k", "variance" and "signal_to_noise".
    """
    figure = matplotlib.figure.Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for column, network in enumerate(("inference", "generative")):
        of_network = [row for row in rows if row["network"] == network]
        for line, (quantity, label) in enumerate(
            (("signal_to_noise", "signal-to-noise ratio"), ("variance", "variance of a parameter's gradient"))
        ):
            for estimator in dict.fromkeys(row["estimator"] for row in of_network):
                points = [(row["k"], row[quantity]) for row in of_network if row["estimator"] == estimator]
                axes[line, column].plot(*zip(*points, strict=True), marker="o", label=estimator)
            axes[line, column].set(xscale="log", yscale="log", title=f"{network} network", ylabel=label, xlabel="k")
            samples = sorted({row["k"] for row in of_network})
            axes[line, column].set_xticks(samples, labels=samples)
            axes[line, column].xaxis.minorticks_off()
            axes[line, column].grid(alpha=0.3)
    axes[0, 1].legend()
    png.save_figure(figure, path)
