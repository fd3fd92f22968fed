"""Trains, evaluates, draws and exports one model: `python -m iwae_tf.main --k=50`; `--help` lists the flags."""

import importlib.metadata
import sys
import time

import numpy as np

import iwae_tf
from iwae_tf import experiment, files, options, progress, published, runs

_NUM_SAMPLES_DRAWN = 100


def main(argv):
    """The story of a run."""
    flags = options.parse(argv)
    run = runs.RunDirectory(flags.run_dir)
    run.check(options.run_flags(flags), flags.overwrite)
    results = None if flags.overwrite else _stored_results(flags, run)
    if results and run.data.exists() and (run.saved_model.exists() or not flags.export):
        print(f"{run.path} is finished, here are its results; --overwrite would start it anew.")
        print(_table(flags, results))
        return

    experiment.import_tensorflow_quietly()
    from iwae_tf import export, training

    images, data = experiment.images(flags)
    plan = experiment.plan(flags)
    # All that can be refused is, before anything is overwritten.
    model = experiment.model(flags, images.image_shape, images.train_mean, plan.steps_per_epoch(len(images.train)))
    if flags.init_from and (flags.overwrite or not run.has_checkpoints()):
        experiment.initialise(model, flags)
    run.claim(options.run_flags(flags), flags.overwrite, data)
    print(f"{_title(flags)} on {len(images.train):,} images of {flags.dataset}; everything goes to {run.path}/")
    if data["num_duplicates"]:
        print(f"{data['num_duplicates']:,} of the {len(images.test):,} test images are among the training images, too")
    trained = training.train(model, images, plan, run, continue_training=flags.train)
    results = _stored_results(flags, run)  # Those of a shorter training are gone.
    if flags.evaluate and not results:
        results = _evaluate(flags, model, images, data, trained, run)
    if flags.export:
        export.export(model, run.saved_model)
    if results:
        print(_table(flags, results))


def _evaluate(flags, model, images, data, trained, run):
    """Measures and draws; writes results.json last, since it marks the run as finished."""
    from iwae_tf import binarization, evaluation

    test = binarization.fixed_binarization(images.test, "test")
    bounds = evaluation.evaluate_images(model, test, flags.nll_samples, report=_evaluation_progress(flags, len(test)))
    active_units = evaluation.active_units(model, test)
    files.write_arrays(run.test_log_likelihoods, log_likelihood=bounds.log_likelihoods)
    _draw(flags, model, test, images.image_shape, run)
    nll = -bounds.log_likelihoods
    results = {
        "nll": {
            "mean": float(nll.mean()),
            "stderr": float(nll.std(ddof=1) / np.sqrt(len(nll))) if len(nll) > 1 else None,
            "num_samples": flags.nll_samples,
            "num_images": len(nll),
            "binarization_seed": binarization.FIXED_BINARIZATION_SEED,
        },
        "elbo": float(bounds.elbos.mean()),
        "iwae_bound": {"k": model.num_samples, "mean": float(bounds.iwae_bounds.mean())},
        "active_units": {
            "per_layer": active_units,
            "threshold": evaluation.ACTIVE_UNIT_THRESHOLD,
            "num_images": len(test),
            "num_samples": evaluation.ACTIVE_UNIT_SAMPLES,
        },
        "data": data,
        "training": trained,
        "flags": options.result_flags(flags),
        "versions": _versions(),
    }
    run.write_results(results)
    return results


def _evaluation_progress(flags, num_images):
    """Returns what `evaluate_images` calls to report."""
    line = progress.StatusLine()
    line.keep(f"evaluating {num_images:,} test images with {flags.nll_samples:,} samples each")
    start, tenths = time.monotonic(), []

    def report(done, mean):
        left = progress.duration((time.monotonic() - start) * (num_images - done) / done)
        text = f"{done:,} of {num_images:,} images  NLL {-mean:.2f} nats  {left} left"
        line.update(lambda: text)
        if done * 10 // num_images > len(tenths):
            tenths.append(done)
            line.keep(text)

    return report


def _draw(flags, model, test, image_shape, run):
    """Draws samples, reconstructions and learning curves."""
    from iwae_tf import evaluation, figures

    run.figures.mkdir(exist_ok=True)
    samples = evaluation.sample_means(model, _NUM_SAMPLES_DRAWN, image_shape)
    files.write_arrays(run.samples, probabilities=samples)
    figures.save_image(run.figures / "samples.png", figures.image_grid(samples, columns=10))
    pairs = evaluation.reconstruction_pairs(model, test, image_shape)
    figures.save_image(run.figures / "reconstructions.png", figures.image_grid(pairs, columns=10))
    rows = run.read_history()
    if not rows:
        return
    history = {name: [row[name] for row in rows] for name in runs.HISTORY_COLUMNS}
    figures.save_learning_curves(run.figures / "bounds.png", history, _title(flags), model.num_samples)


def _stored_results(flags, run):
    """The results of the whole training under the same flags, or None if there are none yet."""
    results = run.read_results()
    if results is None or results["flags"] != options.result_flags(flags):
        return None
    return results if results["training"].get("epochs") == options.num_epochs(flags) else None


def _table(flags, results):
    """The result beside the published one."""
    nll, trained = results["nll"], results["training"]
    latent_dims, _ = options.layer_dims(flags.latent_dims, flags.hidden_dims)
    comparable = (
        options.has_paper_model(flags) and results["data"]["binarization"] == "stochastic" and not flags.max_images
    )
    cell = published.TABLE.get((flags.dataset, latent_dims, flags.objective, flags.k)) if comparable else None
    stderr = "" if nll["stderr"] is None else f" +- {nll['stderr']:.2f}"
    rows = [
        ("", f"test NLL (-L_{nll['num_samples']:,})", "active units"),
        (_title(flags), f"{nll['mean']:.2f}{stderr}", _join(results["active_units"]["per_layer"])),
    ]
    if cell:
        rows.append(("published (Burda et al.)", f"{cell.nll:.2f}", _join(cell.active_units)))
    table = "\n".join(f"{name:<39} {value:<24}{units}" for name, value, units in rows)
    epochs = f"{trained['epochs']:,} epochs"
    if cell:
        share = trained["epochs"] / published.EPOCHS
        epochs = f"{trained['epochs']:,} of the paper's {published.EPOCHS:,} epochs ({share:.1%})"
    seconds = progress.duration(trained["seconds"])
    return f"{table}\n{epochs}, {seconds} of training; {nll['num_images']:,} test images of {flags.dataset}"


def _join(counts):
    return "+".join(str(count) for count in counts)


def _title(flags):
    num_layers = len(options.layer_dims(flags.latent_dims, flags.hidden_dims)[0])
    estimator = "" if flags.gradient_estimator == "standard" else f", {flags.gradient_estimator}"
    ladder = "Ladder " if flags.inference == "ladder" else ""
    outer = f"{flags.num_outer} x " if options.num_samples(flags) != flags.k else ""
    return (
        f"{ladder}{flags.objective.upper()}, {num_layers} layer{'s'[: num_layers > 1]}, k = {outer}{flags.k}{estimator}"
    )


def _versions():
    names = {name: name for name in ("tensorflow", "keras")} | {"tensorflow_probability": "tensorflow-probability"}
    return {key: importlib.metadata.version(name) for key, name in names.items()} | {"iwae_tf": iwae_tf.__version__}


def run():
    """The command: errors that a user can mend are one line and exit status 1."""
    hint = "without --overwrite " if "--overwrite" in sys.argv else ""
    experiment.run_command(main, f"the same command {hint}continues after the last finished epoch")


if __name__ == "__main__":
    run()
