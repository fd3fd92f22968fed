"""A run in words: its title, its cell of the published table, and its results next to the published ones.

This module does not import TensorFlow, so a finished run shows its results at once.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import UNSET, UnsetType

from iwae_tf import paper, supports
from iwae_tf.experiment.flags import Options
from iwae_tf.runs import Results
from iwae_tf.runs.results import Annealing, Mean
from iwae_tf.runtime import progress


def title(options: Options) -> str:
    """The model in one line, such as "IWAE, 1 layer, k = 5"."""
    estimator = "" if options.gradient_estimator == "standard" else f", {options.gradient_estimator}"
    network = ", conv" if options.network == "conv" else ""
    ladder = "Ladder " if options.inference == "ladder" else ""
    likelihood = "" if options.likelihood == "bernoulli" else f", {options.likelihood.replace('_', ' ')}"
    outer = f"{options.num_outer} x " if options.total_samples != options.k else ""
    layers = counted(len(options.latent_dims), "layer")
    return f"{ladder}{options.objective.upper()}, {layers}, k = {outer}{options.k}{estimator}{likelihood}{network}"


def unusual_samples(num_samples: int) -> str:
    """What follows an NLL that is not -L_5000, such as " (-L_100)"."""
    return "" if num_samples == paper.NLL_SAMPLES else f" (-L_{num_samples:,})"


def cell(options: Options, binarization: str | UnsetType = UNSET) -> tuple[str, tuple[int, ...], str, int] | None:
    """The place of a run in the published table.

    Args:
      options: the options of the run.
      binarization: how its images were binarised, see `binarization.BINARIZATIONS`; by default as in the options.

    Returns:
      (data set, latent_dims, objective, k), as in `paper.TABLE`, which may not have this cell; None if the run is not
      comparable with the paper.
    """
    used = options.binarization if binarization is UNSET else binarization
    expected = "fixed" if options.dataset == "binarized_mnist" else "stochastic"
    if not has_paper_model(options) or used != expected or options.max_images:
        return None
    return options.dataset, options.latent_dims, options.objective, options.k


def has_paper_model(options: Options) -> bool:
    """Whether the networks are those of the paper, so that the results are comparable."""
    num_layers = len(options.latent_dims)
    in_paper = {
        "likelihood": "bernoulli",
        "network": "mlp",
        "inference": "bottom_up",
        "activation": "tanh",
        "batch_norm": False,
    }
    return (
        options.hidden_dims == paper.hidden_dims(num_layers)
        and num_layers <= len(paper.HIDDEN_DIMS)
        and all(getattr(options, name) == value for name, value in in_paper.items())
    )


def table(options: Options, results: Results) -> str:
    """The results next to the published ones, as lines to print."""
    nll, training = results.nll, results.training
    place = cell(options, results.data.binarization)
    published = paper.TABLE.get(place) if place else None
    rows = [
        ("", f"test NLL (-L_{nll.num_samples:,})", "active units"),
        (title(options), with_stderr(nll), join(results.active_units.per_layer)),
    ]
    epochs = counted(training.epochs, "epoch")
    if published:
        bound = "" if nll.num_samples == paper.NLL_SAMPLES else f" (-L_{paper.NLL_SAMPLES:,})"
        rows.append(("published (Burda et al.)", f"{published.nll:.2f}{bound}", join(published.active_units)))
        share = training.epochs / paper.EPOCHS
        epochs = f"{training.epochs:,} of the paper's {paper.EPOCHS:,} epochs ({share:.1%})"
    if options.init_from:
        epochs += f" from {options.init_from} on"
    lines = [f"{name:<39} {value:<24}{units}" for name, value, units in rows]
    if results.bits_per_dimension is not UNSET:
        lines.append(f"{'':<39} {results.bits_per_dimension:.3f} bits per dimension")
    elif options.support == supports.REAL:
        lines.append(f"{'':<39} in nats a row, in the units of the data")
    images = counted(nll.num_images, f"test {results.data.noun[:-1]}")
    lines.append(f"{epochs}, {progress.duration(training.seconds)} of training; {images} of {options.dataset}")
    return "\n".join(lines)


def overfitting(history: Sequence[Mapping[str, float]]) -> str | None:
    """Says since when the validation bound has fallen.

    Args:
      history: the rows of history.csv.

    Returns:
      A sentence, or None if the last bound is the best, up to 1% of it and 0.1 nats.
    """
    bounds = [row["validation_iwae_bound"] for row in history]
    if not bounds:
        return None
    best, last = max(bounds), bounds[-1]
    if best - last <= min(0.01 * abs(best), 0.1):
        return None
    epoch = bounds.index(best) + 1
    return (
        f"the model overfits: the validation bound was {best:.2f} nats after epoch {epoch} of {len(bounds)}, and is "
        f"{last:.2f} now; try fewer epochs (--epochs={epoch}) or smaller networks"
    )


def annealing(content: Annealing) -> str:
    """What annealed importance sampling says of the NLL, in one line."""
    images = content.test
    nll = f"annealed importance sampling of {counted(images.num_images, 'test image')}: NLL "
    nll += f"{-images.log_likelihood.mean:.2f}"
    bound = f"-L_{content.num_samples:,} of the same images"
    if images.difference.mean < 0.0:
        return f"{nll}, which is above {bound}: it needs more temperatures"
    return f"{nll}, which is {with_stderr(images.difference)} below {bound}"


def with_stderr(value: Mean, digits: int = 2) -> str:
    """A mean with its standard error, such as "1.23 +- 0.05"."""
    stderr = "" if value.stderr is None else f" +- {value.stderr:.{digits}f}"
    return f"{value.mean:.{digits}f}{stderr}"


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as "1 epoch" or "1,000 epochs"."""
    return f"{number:,} {noun}{'s'[: number != 1]}"


def join(counts: Iterable) -> str:
    """Writes one count per layer as the paper does, such as "26+7"."""
    return "+".join(str(count) for count in counts)
