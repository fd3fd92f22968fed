"""Trains, evaluates, draws and exports one model: `python -m iwae_tf.main --k=50`; `--help` lists the flags."""

import importlib.metadata
import os
import signal
import sys
import tempfile
import time

import numpy as np

import iwae_tf
from iwae_tf import options, progress, published, runs
from iwae_tf.errors import UserError

_NUM_SAMPLES_DRAWN = 100


def main(argv):
    """The story of a run."""
    flags = options.parse(argv)
    run = runs.RunDirectory(flags.run_dir)
    run.check(options.run_flags(flags), flags.overwrite)
    results = None if flags.overwrite else _stored_results(flags, run)
    if results and (run.saved_model.exists() or not flags.export):
        print(f"{run.path} is finished, here are its results; --overwrite would start it anew.")
        print(_table(flags, results))
        return

    _import_tensorflow_quietly()
    from iwae_tf import datasets, export, training

    images = datasets.load(flags.dataset)
    images = images.first(flags.max_images) if flags.max_images else images
    plan = _plan(flags)
    plan.steps_per_epoch(len(images.train))  # Refuses what cannot be trained before anything is overwritten.
    run.claim(options.run_flags(flags), flags.overwrite)
    model = _model(flags, images.train_mean)
    print(f"{_title(flags)} on {len(images.train):,} images of {flags.dataset}; everything goes to {run.path}/")
    trained = training.train(model, images, plan, run, continue_training=flags.train)
    if flags.evaluate and not results:
        results = _evaluate(flags, model, images, trained, run)
    if flags.export:
        export.export(model, run.saved_model)
    if results:
        print(_table(flags, results))


def load(run_dir):
    """Gives back the trained model of a run directory; see `iwae_tf.load`."""
    from iwae_tf import training

    run = runs.RunDirectory(run_dir)
    flags = options.parse(["load", *(f"--{name}={value}" for name, value in run.read_flags().items())])
    model = _model(flags)
    training.prepare(model, _plan(flags))
    if not training.restore(model, run):
        raise UserError(f"{run_dir} has no checkpoint yet; train the model first.")
    training.use_averages(model)
    return model


def _model(flags, train_mean=None):
    """Builds the model from flags; without the training images' mean its output bias is still to be restored."""
    from iwae_tf import datasets, layers, models, networks

    latent_dims, hidden_dims = options.layer_dims(flags.latent_dims, flags.hidden_dims)
    networks_of_paper = networks.paper_networks(
        int(np.prod(datasets.DATASETS[flags.dataset].image_shape)),
        latent_dims,
        hidden_dims,
        output_bias=None if train_mean is None else layers.output_bias_from_mean(train_mean),
        seed=flags.seed,
    )
    return models.ImportanceWeightedAutoencoder(
        *networks_of_paper,
        objective=flags.objective,
        gradient_estimator=flags.gradient_estimator,
        num_samples=flags.k,
        num_resampled=flags.resampled,
        seed=flags.seed,
    )


def _plan(flags):
    from iwae_tf import training

    return training.Plan(
        schedule=flags.schedule,
        epochs=options.num_epochs(flags),
        learning_rate=flags.learning_rate,
        batch_size=flags.batch_size,
        adam_epsilon=flags.adam_epsilon,
        ema_momentum=flags.ema_momentum,
        picture_every=flags.picture_every,
        jit=flags.jit,
    )


def _evaluate(flags, model, images, trained, run):
    """Measures and draws; writes results.json last, since it marks the run as finished."""
    from iwae_tf import datasets, evaluation

    test = datasets.fixed_binarization(images.test, "test")
    bounds = evaluation.evaluate_images(model, test, flags.nll_samples, report=_evaluation_progress(flags, len(test)))
    active_units = evaluation.active_units(model, test)
    runs.write_arrays(run.test_log_likelihoods, log_likelihood=bounds.log_likelihoods)
    _draw(flags, model, test, images.image_shape, run)
    nll = -bounds.log_likelihoods
    results = {
        "nll": {
            "mean": float(nll.mean()),
            "stderr": float(nll.std(ddof=1) / np.sqrt(len(nll))) if len(nll) > 1 else None,
            "num_samples": flags.nll_samples,
            "num_images": len(nll),
            "binarization_seed": datasets.FIXED_BINARIZATION_SEED,
        },
        "elbo": float(bounds.elbos.mean()),
        "iwae_bound": {"k": flags.k, "mean": float(bounds.iwae_bounds.mean())},
        "active_units": {
            "per_layer": active_units,
            "threshold": evaluation.ACTIVE_UNIT_THRESHOLD,
            "num_images": len(test),
            "num_samples": evaluation.ACTIVE_UNIT_SAMPLES,
        },
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
    runs.write_arrays(run.samples, probabilities=samples)
    figures.save_image(run.figures / "samples.png", figures.image_grid(samples, columns=10))
    pairs = evaluation.reconstruction_pairs(model, test, image_shape)
    figures.save_image(run.figures / "reconstructions.png", figures.image_grid(pairs, columns=10))
    rows = run.read_history()
    if not rows:
        return
    history = {name: [row[name] for row in rows] for name in runs.HISTORY_COLUMNS}
    figures.save_learning_curves(run.figures / "bounds.png", history, flags.objective, flags.k)


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
    comparable = options.has_paper_layers(flags) and not flags.max_images
    cell = published.TABLE.get((flags.dataset, latent_dims, flags.objective, flags.k)) if comparable else None
    stderr = "" if nll["stderr"] is None else f" +- {nll['stderr']:.2f}"
    rows = [
        ("", f"test NLL (-L_{nll['num_samples']:,})", "active units"),
        (_title(flags), f"{nll['mean']:.2f}{stderr}", _join(results["active_units"]["per_layer"])),
    ]
    if cell:
        rows.append(("published (Burda et al.)", f"{cell.nll:.2f}", _join(cell.active_units)))
    table = "\n".join(f"{name:<32}{value:<24}{units}" for name, value, units in rows)
    images = "" if nll["num_images"] == 10000 else f" on {nll['num_images']:,} test images"
    return (
        f"{table}\n{trained['epochs']:,} of the paper's {published.EPOCHS:,} epochs "
        f"({trained['epochs'] / published.EPOCHS:.1%}), {progress.duration(trained['seconds'])} of training{images}"
    )


def _join(counts):
    return "+".join(str(count) for count in counts)


def _title(flags):
    num_layers = len(options.layer_dims(flags.latent_dims, flags.hidden_dims)[0])
    return f"{flags.objective.upper()}, {num_layers} layer{'s'[: num_layers > 1]}, k = {flags.k}"


def _versions():
    names = {name: name for name in ("tensorflow", "keras")} | {"tensorflow_probability": "tensorflow-probability"}
    return {key: importlib.metadata.version(name) for key, name in names.items()} | {"iwae_tf": iwae_tf.__version__}


def _import_tensorflow_quietly():
    """Imports TensorFlow without its start-up messages, which would bury what the program prints.

    Some of them come before any setting is read, so standard error is set aside; it is shown if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as set_aside:
        standard_error = os.dup(2)
        os.dup2(set_aside.fileno(), 2)
        try:
            import tensorflow as tf
            import tensorflow_probability  # noqa: F401
        except BaseException:
            set_aside.seek(0)
            os.write(standard_error, set_aside.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
    tf.get_logger().setLevel("ERROR")


def run():
    """The command: errors that a user can mend are one line and exit status 1."""
    try:
        main(sys.argv)
    except UserError as error:
        sys.exit(f"iwae_tf: {error}")
    except KeyboardInterrupt:
        hint = "without --overwrite " if "--overwrite" in sys.argv else ""
        print(
            f"\niwae_tf: interrupted; the same command {hint}continues after the last finished epoch", file=sys.stderr
        )
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    run()
