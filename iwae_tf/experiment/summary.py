"""A run in words: its title, its cell of the published table, and its result beside the published one.

Without TensorFlow, so that a finished run shows its results at once.
"""

from iwae_tf import paper
from iwae_tf.experiment import options
from iwae_tf.runtime import progress


def title(flags):
    """Names the model of these flags in one line, such as "IWAE, 1 layer, k = 5"."""
    num_layers = len(options.layer_dims(flags.latent_dims, flags.hidden_dims)[0])
    estimator = "" if flags.gradient_estimator == "standard" else f", {flags.gradient_estimator}"
    ladder = "Ladder " if flags.inference == "ladder" else ""
    outer = f"{flags.num_outer} x " if options.num_samples(flags) != flags.k else ""
    layers = f"{num_layers} layer{'s'[: num_layers > 1]}"
    return f"{ladder}{flags.objective.upper()}, {layers}, k = {outer}{flags.k}{estimator}"


def cell(flags, binarization):
    """The place of a run in the published table.

    Args:
      flags: as `options.parse` returns them.
      binarization: how the run's images were binarised, see `binarization.BINARIZATIONS`.

    Returns:
      A key such as those of `paper.TABLE`, which may lack it; None where the run is none of the paper's.
    """
    if not options.has_paper_model(flags) or binarization != "stochastic" or flags.max_images:
        return None
    latent_dims, _ = options.layer_dims(flags.latent_dims, flags.hidden_dims)
    return flags.dataset, latent_dims, flags.objective, flags.k


def stored_results(flags, run):
    """The results of the whole training under these flags.

    Args:
      flags: as `options.parse` returns them.
      run: a `runs.RunDirectory`.

    Returns:
      What its results.json holds, or None if that is of a shorter training, of other flags, or not there yet.
    """
    results = run.read_results()
    if results is None or not options.answer(results["flags"], flags):
        return None
    return results if results["training"].get("epochs") == options.num_epochs(flags) else None


def finished_results(flags, run):
    """As `stored_results`, but None where something else that these flags ask for is missing."""
    complete = run.data.exists() and (run.saved_model.exists() or not flags.export)
    return stored_results(flags, run) if complete else None


def table(flags, results):
    """The result beside the published one, as lines to print."""
    nll, trained = results["nll"], results["training"]
    beside = paper.TABLE.get(cell(flags, results["data"]["binarization"]))
    stderr = "" if nll["stderr"] is None else f" +- {nll['stderr']:.2f}"
    rows = [
        ("", f"test NLL (-L_{nll['num_samples']:,})", "active units"),
        (title(flags), f"{nll['mean']:.2f}{stderr}", join(results["active_units"]["per_layer"])),
    ]
    epochs = f"{trained['epochs']:,} epochs"
    if beside:
        rows.append(("published (Burda et al.)", f"{beside.nll:.2f}", join(beside.active_units)))
        share = trained["epochs"] / paper.EPOCHS
        epochs = f"{trained['epochs']:,} of the paper's {paper.EPOCHS:,} epochs ({share:.1%})"
    lines = "\n".join(f"{name:<39} {value:<24}{units}" for name, value, units in rows)
    seconds = progress.duration(trained["seconds"])
    return f"{lines}\n{epochs}, {seconds} of training; {nll['num_images']:,} test images of {flags.dataset}"


def join(counts):
    """Writes the layers' counts as the paper does, such as "26+7"."""
    return "+".join(str(count) for count in counts)
