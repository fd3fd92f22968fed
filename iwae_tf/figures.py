"""Arrays -> pictures. The only module that imports matplotlib."""

import io

import matplotlib
import matplotlib.figure
import matplotlib.image
import matplotlib.ticker
import numpy as np

from iwae_tf import files

_MAGNIFICATION = 2
# Colours of units that are active and of those that are not.
_ACTIVE, _INACTIVE = "C0", "silver"
# Where logarithms of variances that are zero are drawn.
_LEAST_VARIANCE = 1e-12
_LINE_COLORS = {"VAE": "C0", "IWAE": "C1"}
# Of the bars of the layers from the bottom, in turns.
_BAR_COLORS = {"ours": ("#1f77b4", "#9ecae1"), "published": ("#7f7f7f", "#c7c7c7")}


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


def save_units(path, layers, threshold, title):
    """Draws what the units of each layer do, a row for each layer, as a PNG file.

    From left to right: a histogram of their variances, how many are active at any threshold, the KL of each.

    Args:
      path: the file.
      layers: for each layer, bottom first, {"variances": Cov_x(E_q[u]) of each unit, "kls": nats of each unit}; what
        is not finite, or None, is drawn as zero.
      threshold: the variance above which a unit counts as active.
      title: the model's.
    """
    figure = matplotlib.figure.Figure(figsize=(11, 3.2 * len(layers) + 0.4), layout="constrained")
    figure.suptitle(title)
    variances, kls = (
        [np.nan_to_num(np.array(layer[name], np.float64), posinf=0.0, neginf=0.0) for layer in layers]
        for name in ("variances", "kls")
    )
    logs = [np.log10(np.maximum(of_layer, _LEAST_VARIANCE)) for of_layer in variances]
    limits = min(np.log10(threshold), *map(np.min, logs)) - 0.3, max(np.log10(threshold), *map(np.max, logs)) + 0.3
    for number, (log_variances, of_layer, row) in enumerate(
        zip(logs, kls, figure.subplots(len(layers), 3, squeeze=False), strict=True), start=1
    ):
        _draw_variances(row[0], log_variances, threshold, limits)
        row[0].set_ylabel(f"layer {number}: units")
        _draw_counts(row[1], log_variances, threshold, limits)
        _draw_kls(row[2], of_layer, log_variances > np.log10(threshold))
    _save(figure, path)


def _draw_variances(axes, log_variances, threshold, limits):
    """A histogram of log10 variances."""
    axes.hist(log_variances, bins=np.linspace(*limits, 31), color=_ACTIVE)
    axes.axvline(np.log10(threshold), color="black", linestyle=":", label=f"threshold {threshold:g}")
    axes.set(xlim=limits, xlabel="log10 of the variance over x of a unit's mean")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left")


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
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")


def _draw_kls(axes, kls, active):
    """The units' KLs as bars, the largest first."""
    order = np.argsort(-kls)
    colors = np.where(active[order], _ACTIVE, _INACTIVE)
    axes.bar(np.arange(1, len(kls) + 1), kls[order], width=1.0 if len(kls) > 30 else 0.8, color=colors)
    labels = ((_ACTIVE, f"active: {kls[active].sum():.2f} nats"), (_INACTIVE, f"not: {kls[~active].sum():.2f} nats"))
    for color, label in labels:
        axes.bar([1], [0.0], color=color, label=label)
    axes.set(xlabel="units, sorted", ylabel="KL in nats")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3, axis="y")
    axes.legend()


def save_traversal(path, images, labels, stddevs, pixels):
    """Draws what single units do to images, a row for each unit, as a PNG file.

    Args:
      path: the file.
      images: those whose posterior means are moved, [num_images, height, width].
      labels: of each row.
      stddevs: of each column, how far the unit is from its mean.
      pixels: the pixels' means, [num_images, rows, columns, height, width].
    """
    num_images, rows, columns, height, width = pixels.shape
    cell = 0.42
    figure = matplotlib.figure.Figure(
        figsize=(2.4 + num_images * (columns + 1) * cell, 0.9 + (rows + 2) * cell * height / width),
        layout="constrained",
    )
    grids = figure.subplots(2, num_images, squeeze=False, height_ratios=[2.0, rows])
    for (top, axes), image, of_image in zip(grids.T, images, pixels, strict=True):
        top.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.0)
        top.axis("off")
        grid = image_grid(of_image.reshape(-1, height, width), columns)
        axes.imshow(grid, cmap="gray_r", vmin=0.0, vmax=1.0, aspect="auto")
        axes.set_xticks((np.arange(columns) + 0.5) * (width + 1), [f"{distance:+.1f}" for distance in stddevs])
        axes.set_yticks((np.arange(rows) + 0.5) * (height + 1), labels if axes is grids[1, 0] else [])
        axes.tick_params(length=0)
        axes.set_xlabel("standard deviations from the unit's mean")
    _save(figure, path)


def save_posteriors(path, images, posteriors, title):
    """Draws the true posterior of each image, with q(z | x) over it, as a PNG file.

    Args:
      path: the file.
      images: [num_images, height, width].
      posteriors: for each a `latents.Posterior`.
      title: the model's.
    """
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = matplotlib.figure.Figure(figsize=(3.7 * columns, 3.9 * rows + 0.7), layout="constrained")
    figure.suptitle(f"{title}: the true posterior p(z | x) (blue) and q(z | x) at 1, 2 and 3 standard deviations (red)")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes[len(images) :]:
        axes.axis("off")
    for axes, image, posterior in zip(all_axes, images, posteriors, strict=False):
        _draw_posterior(axes, posterior)
        corner = axes.inset_axes([0.02, 0.76, 0.22, 0.22])
        corner.imshow(image, cmap="gray_r")
        corner.set(xticks=[], yticks=[])
    _save(figure, path)


def _draw_posterior(axes, posterior):
    """One true posterior, q over it, and how far they are apart."""
    low, high, density = posterior.low, posterior.high, posterior.density.T
    colours = matplotlib.colormaps["Blues"]
    axes.set_facecolor(colours(0.0))
    extent = (low[0], high[0], low[1], high[1])
    axes.imshow(density, origin="lower", extent=extent, cmap=colours, interpolation="bilinear")
    # Where a Gaussian's ellipses of 1, 2 and 3 standard deviations would lie.
    levels = density.max() * np.exp(-0.5 * np.square([3.0, 2.0, 1.0]))
    axes.contour(density, levels=levels, extent=extent, colors="C0", linewidths=0.6)
    angle = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = posterior.stddev[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)])
    for radius in (1.0, 2.0, 3.0):
        axes.plot(*(posterior.mean[:, np.newaxis] + radius * circle), color="C3", linewidth=1.2)
    # All that is inside the outermost lines, with the same scale on both axes.
    inside = np.argwhere(posterior.density > levels[0]) / (len(density) - 1)
    ends = [posterior.mean - 3.0 * posterior.stddev, posterior.mean + 3.0 * posterior.stddev]
    ends += [low + end * (high - low) for end in (inside.min(axis=0), inside.max(axis=0))]
    middle, half = (np.max(ends, axis=0) + np.min(ends, axis=0)) / 2.0, 0.58 * np.max(np.ptp(ends, axis=0))
    axes.set(xlim=middle[0] + half * np.array([-1, 1]), ylim=middle[1] + half * np.array([-1, 1]), aspect="equal")
    text = f"log p(x) {posterior.log_likelihood:.2f}   ELBO {posterior.elbo:.2f}\nKL(q || p) {posterior.kl:.2f} nats"
    axes.set_title(text, fontsize="medium")
    axes.set(xlabel="unit 1", ylabel="unit 2")


def save_grids(path, grids, captions):
    """Draws grids of images side by side, each below its caption, as a PNG file.

    Args:
      path: the file.
      grids: arrays [height, width] with values in [0, 1].
      captions: a text for each.
    """
    height, width = grids[0].shape
    inches = 5.0
    figure = matplotlib.figure.Figure(
        figsize=(inches * len(grids), inches * height / width + 0.3), layout="constrained"
    )
    for axes, grid, caption in zip(np.ravel(figure.subplots(1, len(grids))), grids, captions, strict=True):
        axes.imshow(grid, cmap="gray", vmin=0.0, vmax=1.0)
        axes.set_title(caption, fontsize=11, pad=4)
        axes.axis("off")
    _save(figure, path)


def save_validation_curves(path, curves):
    """Draws the bounds of several runs, against epochs and against minutes, as a PNG file.

    Args:
      path: the file.
      curves: for each run {"label": text, "epochs": [], "minutes": [], "bounds": [] in nats}, not empty.
    """
    figure = matplotlib.figure.Figure(figsize=(11, 4.6 + 0.22 * -(-len(curves) // 2)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    bottom, top = _settled_range([curve["bounds"] for curve in curves])
    for axes, quantity, label in zip(panels, ("epochs", "minutes"), ("epoch", "minutes of training"), strict=True):
        for i, curve in enumerate(curves):
            style = {"color": f"C{i % 10}", "linestyle": ("-", "--", ":", "-.")[i // 10 % 4], "label": curve["label"]}
            # A few epochs make no line.
            axes.plot(curve[quantity], curve["bounds"], **style, linewidth=1.3, marker="." * (len(curve["bounds"]) < 5))
        lengths = [curve[quantity][-1] for curve in curves]
        # Beside a long run the short ones would be a vertical line.
        is_log = min(lengths) > 0.0 and max(lengths) > 5.0 * min(lengths)
        axes.set(xlabel=label, xscale="log" if is_log else "linear", ylim=(bottom, top))
        seen = [x for curve in curves for x, y in zip(curve[quantity], curve["bounds"], strict=True) if y > bottom]
        if is_log and min(seen) > 0.0:
            axes.set_xlim(left=0.9 * min(seen))
            axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        if quantity == "epochs" and not is_log:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("bound on log p(x) in nats")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False
    )
    _save(figure, path)


def _settled_range(curves):
    """What to show of curves whose first epochs fall so steeply that they would hide all that follows."""
    top = max(max(curve) for curve in curves)
    settled = min(np.median(curve) for curve in curves if 2 * len(curve) >= max(map(len, curves)))
    worst = min(max(curve) for curve in curves)  # Each curve is to be seen.
    bottom = min(settled, worst)
    margin = 0.1 * (top - bottom) + 0.5
    return bottom - 2.0 * margin, top + margin


def save_nll_against_k(path, panels):
    """Draws the NLL against the k of training, measured and published, as a PNG file.

    Args:
      path: the file.
      panels: title -> list of lines {"label": text, "published": bool, "k": [], "nll": [], "sd": [] over seeds, NaN
        where there is but one}; the labels are those of `_LINE_COLORS`.
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
    _save(figure, path)


def save_active_units(path, cells):
    """Draws active units as bars, measured beside published, the layers on top of each other, as a PNG file.

    Args:
      path: the file.
      cells: for each {"label": text, "ours": [] counts per layer or None, "published": [] or None}.
    """
    figure = matplotlib.figure.Figure(figsize=(max(5.0, 2.0 + 0.95 * len(cells)), 4.4), layout="constrained")
    axes = figure.subplots()
    num_layers = max(len(cell[name] or ()) for cell in cells for name in _BAR_COLORS)
    for shift, (name, colors) in zip((-0.2, 0.2), _BAR_COLORS.items(), strict=True):
        for layer in range(num_layers):
            bars = [(i, cell[name]) for i, cell in enumerate(cells) if len(cell[name] or ()) > layer]
            if bars:
                places, counts, below = zip(*((i + shift, u[layer], sum(u[:layer])) for i, u in bars), strict=True)
                label = f"{name}, layer {layer + 1}" if num_layers > 1 else name
                axes.bar(places, counts, 0.38, below, color=colors[layer % 2], label=label)
        for i, cell in enumerate(cells):
            if cell[name]:
                text = "+".join(f"{round(count, 1):g}" for count in cell[name])
                place = (i + shift, sum(cell[name]))
                axes.annotate(text, place, (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(cells)), labels=[cell["label"] for cell in cells], fontsize=9)
    axes.set_ylabel("active units")
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    middle, half = (len(cells) - 1) / 2.0, max(len(cells), 3) / 2.0 + 0.1
    axes.set_xlim(middle - half, middle + half)
    axes.margins(y=0.1)
    figure.legend(loc="outside upper center", ncols=4 if len(cells) > 5 else 2, fontsize=9, frameon=False)
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
