"""What a run's evaluation finds and leaves behind: results.json, arrays for each image, and pictures."""

import importlib.metadata
import time

import numpy as np

import iwae_tf
from iwae_tf import binarization, evaluation, figures, files, latents, options, progress, runs, summary, units
from iwae_tf.errors import UserError

_NUM_SAMPLES_DRAWN = 100
_NUM_IMAGES_TRAVERSED = 2
_NUM_POSTERIORS = 6


def assess(flags, model, images, data, trained, run, workers):
    """Evaluates a trained model, draws, and writes it all down; begins where an interrupted evaluation was.

    Args:
      flags: as `options.parse` returns them.
      model: the trained `ImportanceWeightedAutoencoder`.
      images: `datasets.Images`.
      data: what is on record of them, see `experiment.images`.
      trained: as `training.train` returns it.
      run: the claimed `runs.RunDirectory`, to which the chief writes.
      workers: `replicas.Workers`, all of which call this.

    Returns:
      What results.json holds, or None in the workers that do not write it.

    Raises:
      UserError: the bounds are not finite.
      interruption.Interrupted: a signal asked to stop, and what is finished is saved.
    """
    test = binarization.fixed_binarization(images.test, "test")
    bounds = _evaluate(flags, model, test, trained, run, workers)
    return _finish(flags, model, images, data, trained, bounds, run) if workers.is_chief else None


def _evaluate(flags, model, test, trained, run, workers):
    """Measures the bounds of the test images; begins where an interrupted evaluation was."""
    unfinished = _UnfinishedEvaluation(flags, trained, len(test), run if workers.is_chief else None)
    begun = unfinished.read()
    num_begun = workers.any(len(begun))
    if num_begun:
        begun.values = workers.from_chief(
            begun.values if workers.is_chief else np.zeros([len(begun.values), num_begun])
        )
        print(f"{num_begun:,} of the {len(test):,} test images were evaluated before")
    report = unfinished.report if workers.is_chief else None
    try:
        return evaluation.evaluate_images(model, test, flags.nll_samples, report=report, begun=begun)
    finally:
        unfinished.write()


class _UnfinishedEvaluation:
    """Reports an evaluation, and keeps what is finished of it.

    Args:
      flags: as `options.parse` returns them.
      trained: as `training.train` returns it.
      num_images: how many there are in all.
      run: the run to write to, or None.
    """

    _SECONDS_BETWEEN = 60.0

    def __init__(self, flags, trained, num_images, run):
        self._of = np.array([trained["steps"], flags.nll_samples, num_images])
        self._run = run
        self._num_images = num_images
        self._written = time.monotonic()
        self._countdown = progress.Countdown(num_images)
        self._bounds = self._nothing = evaluation.SplitBounds(flags.nll_samples, options.num_samples(flags))
        if run:
            print(f"evaluating {num_images:,} test images with {flags.nll_samples:,} samples each", flush=True)

    def read(self):
        """Returns the `SplitBounds` of what is finished of this very evaluation, perhaps of no image."""
        arrays = files.read_arrays(self._run.unfinished_evaluation) if self._run else None
        arrays = arrays or {}
        values = arrays.get("values", np.zeros(0))
        fits = np.array_equal(arrays.get("of"), self._of) and values.dtype == np.float64 and values.ndim == 2
        if not fits or len(values) != len(self._nothing.values) or values.shape[1] > self._num_images:
            return self._nothing
        if not np.isfinite(values).all():
            return self._nothing
        self._countdown = progress.Countdown(self._num_images, values.shape[1])
        return evaluation.SplitBounds(self._nothing.num_samples, self._nothing.k, values)

    def report(self, bounds):
        """Shows the mean so far and the time left; writes once in a while."""
        self._bounds = bounds
        self._countdown.update(len(bounds), f"NLL {-bounds.log_likelihoods.mean():.2f} nats")
        if time.monotonic() - self._written > self._SECONDS_BETWEEN:
            self.write()

    def write(self):
        """Writes what is finished."""
        if self._run and len(self._bounds):
            self._written = time.monotonic()
            arrays = {"of": self._of, "values": self._bounds.values}
            files.write_arrays(self._run.unfinished_evaluation, arrays, compress=False)


def _finish(flags, model, images, data, trained, bounds, run):
    """Measures the units and draws; writes results.json last, since it marks the run as finished."""
    _refuse_infinite(bounds)
    per_image = {
        "log_likelihood": bounds.log_likelihoods,
        "effective_sample_size": bounds.effective_sample_sizes,
        "largest_weight": bounds.largest_weights,
        "bounds": np.stack([bounds.at(count) for count in bounds.counts]),
        "counts": np.array(bounds.counts),
    }
    files.write_arrays(run.test_log_likelihoods, per_image)
    results = _results(flags, model, images, data, trained, bounds)
    _draw(flags, model, binarization.fixed_binarization(images.test, "test"), results, run)
    run.write_results(results)
    run.unfinished_evaluation.unlink(missing_ok=True)
    return results


def _refuse_infinite(bounds):
    """Raises a UserError for bounds that are not finite."""
    wrong = np.flatnonzero(~np.isfinite(bounds.values).all(axis=0))
    if len(wrong):
        raise UserError(
            f"The bounds of {len(wrong)} test images are not finite (the first is number {wrong[0]}, "
            f"{bounds.log_likelihoods[wrong[0]]} nats), so there is no NLL: the model went wrong in training; train it "
            "anew with a smaller --learning_rate and --overwrite."
        )


def _results(flags, model, images, data, trained, bounds):
    """What results.json holds."""
    return {
        "nll": {
            **_mean(-bounds.log_likelihoods),
            "num_samples": flags.nll_samples,
            "num_images": len(bounds),
            "binarization_seed": binarization.FIXED_BINARIZATION_SEED,
        },
        "bounds": [{"k": count, **_mean(bounds.at(count))} for count in bounds.counts],
        "corrected_nll": _mean(-bounds.corrected),
        "effective_sample_size": _quantiles(bounds.effective_sample_sizes),
        "largest_weight": _quantiles(bounds.largest_weights),
        "elbo": float(bounds.elbos.mean()),
        "iwae_bound": {"k": model.num_samples, "mean": float(bounds.iwae_bounds.mean())},
        **_units(model, images),
        "data": data,
        "training": trained,
        "flags": options.result_flags(flags),
        "versions": _versions(),
    }


def _units(model, images):
    """What results.json holds of the latent units: counts by both definitions, and the statistics of each."""
    test = binarization.fixed_binarization(images.test, "test")
    train = binarization.fixed_binarization(images.train[: units.AUTHORS_NUM_IMAGES], "train")
    layers = units.measure(model, test)
    return {
        "active_units": {
            "per_layer": [layer.num_active() for layer in layers],
            "threshold": units.ACTIVE_UNIT_THRESHOLD,
            "num_images": len(test),
            "num_samples": units.ACTIVE_UNIT_SAMPLES,
            "authors_code": {
                "per_layer": units.active_units(model, train, units.AUTHORS_NUM_SAMPLES),
                "num_images": len(train),
                "num_samples": units.AUTHORS_NUM_SAMPLES,
                "split": "train",
            },
        },
        "units": [layer.record() for layer in layers],
    }


def _mean(values):
    """A mean over images and its standard error, plain JSON."""
    stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "stderr": stderr}


def _quantiles(values):
    """Where a number lies that each image has, plain JSON."""
    return {"mean": float(values.mean())} | {f"{q:.0%}": float(np.quantile(values, q)) for q in (0.01, 0.1, 0.5, 0.9)}


def _draw(flags, model, test, results, run):
    """Draws samples, reconstructions, the bounds against their samples, and learning curves."""
    run.figures.mkdir(exist_ok=True)
    image_shape = results["data"]["image_shape"]
    samples = evaluation.sample_means(model, _NUM_SAMPLES_DRAWN, image_shape)
    files.write_arrays(run.samples, {"probabilities": samples})
    figures.save_image(run.figures / "samples.png", figures.image_grid(samples, columns=10))
    pairs = evaluation.reconstruction_pairs(model, test, image_shape)
    figures.save_image(run.figures / "reconstructions.png", figures.image_grid(pairs, columns=10))
    corrected = -results["corrected_nll"]["mean"]
    figures.save_bound_curve(run.figures / "samples_needed.png", results["bounds"], corrected, summary.title(flags))
    _draw_latents(model, test, results, image_shape, run, summary.title(flags))
    rows = run.read_history()
    if not rows:
        return
    history = {name: [row[name] for row in rows] for name in runs.HISTORY_COLUMNS}
    figures.save_learning_curves(run.figures / "bounds.png", history, summary.title(flags), model.num_samples)


def _draw_latents(model, test, results, image_shape, run, title):
    """Draws the units and what they do; where there are but two, the manifold and true posteriors, too."""
    threshold = results["active_units"]["threshold"]
    figures.save_units(run.figures / "units.png", results["units"], threshold, title)
    layers = [units.Units.from_record(record) for record in results["units"]]
    x = test[:_NUM_IMAGES_TRAVERSED]
    rows, pixels = latents.traversal(model, x, layers)
    labels = [f"layer {layer + 1}, unit {unit + 1}, KL {layers[layer].kls[unit]:.2f}" for layer, unit in rows]
    pixels = pixels.reshape(*pixels.shape[:3], *image_shape)
    figures.save_traversal(run.figures / "traversal.png", x.reshape(-1, *image_shape), labels, latents.STDDEVS, pixels)
    if model.inference.latent_dims != [2]:
        return
    manifold = latents.manifold(model).reshape(-1, *image_shape)
    figures.save_image(run.figures / "manifold.png", figures.image_grid(manifold, latents.MANIFOLD_SIDE, gap=0))
    x = test[:_NUM_POSTERIORS]
    posteriors = latents.posteriors(model, x)
    figures.save_posteriors(run.figures / "posterior.png", x.reshape(-1, *image_shape), posteriors, title)


def _versions():
    names = {name: name for name in ("tensorflow", "keras")} | {"tensorflow_probability": "tensorflow-probability"}
    return {key: importlib.metadata.version(name) for key, name in names.items()} | {"iwae_tf": iwae_tf.__version__}
