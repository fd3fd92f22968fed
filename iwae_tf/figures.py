"""Arrays -> pictures. The only module that imports matplotlib."""

import io

import matplotlib.figure
import matplotlib.image
import numpy as np

from iwae_tf import files

_MAGNIFICATION = 2


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


def save_worst_images(path, images, reconstructions, captions, title):
    """Draws images above their reconstructions with a few lines on each, as a PNG file.

    Args:
      path: the file.
      images: float array [num_images, height, width] with values in [0, 1].
      reconstructions: as images.
      captions: a text for each image.
      title: what they were chosen by.
    """
    figure = matplotlib.figure.Figure(figsize=(1.1 * len(images) + 0.2, 3.6), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, caption in enumerate(captions):
        for row, stack in enumerate((images, reconstructions)):
            axes[row, column].imshow(stack[column], cmap="gray", vmin=0.0, vmax=1.0)
            axes[row, column].set(xticks=[], yticks=[])
        axes[1, column].set_xlabel(caption, fontsize=8)
    figure.suptitle(f"test images with the {title}, and their reconstructions", fontsize=9)
    _save(figure, path)


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
