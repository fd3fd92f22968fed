"""Arrays -> pictures. The only module that imports matplotlib."""

import io

import matplotlib.figure
import matplotlib.image
import numpy as np

from iwae_tf import files

_MAGNIFICATION = 2
# Colours of units that are active and of those that are not.
_ACTIVE, _INACTIVE = "C0", "silver"
# Where logarithms of variances that are zero are drawn.
_LEAST_VARIANCE = 1e-12


def image_grid(images, columns, gap=1):
    """Lays images out in a grid, row by row.

    Args:
      images: float array [num_images, height, width] with values in [0, 1].
      columns: images in a row.
      gap: grey pixels between images.

    Returns:
      Float array [grid_height, grid_width].
    """
    num_images, height, width = images.shape
    rows = -(-num_images // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 0.5)
    for i, image in enumerate(images):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def save_image(path, grid):
    """Writes a grid [height, width] with values in [0, 1] as a PNG file, magnified."""
    pixels = np.kron(grid, np.ones((_MAGNIFICATION, _MAGNIFICATION)))
    content = io.BytesIO()
    matplotlib.image.imsave(content, pixels, cmap="gray", vmin=0.0, vmax=1.0)
    files.write_atomically(path, content.getbuffer())


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
    _save(figure, path)


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
    _save(figure, path)


def save_units(path, layers, threshold, title):
    """Draws what the units of each layer do, a row for each layer, as a PNG file.

    From left to right: a histogram of their variances, how many are active at any threshold, the KL of each.

    Args:
      path: the file.
      layers: for each layer, bottom first, {"variances": Cov_x(E_q[u]) of each unit, "kls": nats of each unit}.
      threshold: the variance above which a unit counts as active.
      title: the model's.
    """
    figure = matplotlib.figure.Figure(figsize=(11, 3.2 * len(layers) + 0.4), layout="constrained")
    figure.suptitle(title)
    logs = [np.log10(np.maximum(layer["variances"], _LEAST_VARIANCE)) for layer in layers]
    limits = min(np.log10(threshold), *map(np.min, logs)) - 0.3, max(np.log10(threshold), *map(np.max, logs)) + 0.3
    for number, (log_variances, layer, row) in enumerate(
        zip(logs, layers, figure.subplots(len(layers), 3, squeeze=False), strict=True), start=1
    ):
        _draw_variances(row[0], log_variances, threshold, limits)
        row[0].set_ylabel(f"layer {number}: units")
        _draw_counts(row[1], log_variances, threshold, limits)
        _draw_kls(row[2], np.array(layer["kls"]), log_variances > np.log10(threshold))
    _save(figure, path)


def _draw_variances(axes, log_variances, threshold, limits):
    """A histogram of log10 variances."""
    axes.hist(log_variances, bins=np.linspace(*limits, 31), color=_ACTIVE)
    axes.axvline(np.log10(threshold), color="black", linestyle=":", label=f"threshold {threshold:g}")
    axes.set(xlim=limits, xlabel="log10 of the variance over x of a unit's mean")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def _draw_counts(axes, log_variances, threshold, limits):
    """How many units are active, against the threshold."""
    ascending = np.sort(log_variances)
    active = int(np.sum(log_variances > np.log10(threshold)))
    steps = 10.0 ** np.array([limits[0], *ascending, limits[1]])
    counts = np.array([*range(len(ascending), -1, -1), 0])
    axes.step(steps, counts, where="post", color=_ACTIVE)
    axes.axvline(threshold, color="black", linestyle=":")
    label = f"{active} of {len(ascending)} active"
    axes.plot(threshold, active, "o", color="black", label=label)
    axes.set(xscale="log", xlim=steps[[0, -1]], ylim=(0, None), xlabel="threshold", ylabel="active units")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_kls(axes, kls, active):
    """The units' KLs as bars, the largest first."""
    order = np.argsort(-kls)
    colors = np.where(active[order], _ACTIVE, _INACTIVE)
    axes.bar(np.arange(1, len(kls) + 1), kls[order], width=1.0 if len(kls) > 30 else 0.8, color=colors)
    labels = ((_ACTIVE, f"active: {kls[active].sum():.2f} nats"), (_INACTIVE, f"not: {kls[~active].sum():.2f} nats"))
    for color, label in labels:
        axes.bar([1], [0.0], color=color, label=label)
    axes.set(xlabel="units, sorted", ylabel="KL in nats")
    axes.grid(alpha=0.3, axis="y")
    axes.legend()


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
    _save(figure, path)


def _save(figure, path):
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    files.write_atomically(path, content.getbuffer())
