"""Evaluates a trained model: results.json, arrays with a value per image, and figures."""

import importlib.metadata
import math
from collections.abc import Mapping

import msgspec
import numpy as np

from iwae_tf import datasets, models, runs
from iwae_tf.datasets import observations
from iwae_tf.errors import UserError
from iwae_tf.evaluation import pareto, units
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.evaluation.statistics import mean_and_stderr, quantiles
from iwae_tf.experiment import board, draw, finished, stored
from iwae_tf.experiment.flags import Options
from iwae_tf.experiment.passes import evaluation_passes, measure_passes
from iwae_tf.runs import results as formats
from iwae_tf.runtime import distribute, files, machine
from iwae_tf.version import __version__


def evaluate(
    options: Options,
    model: models.ImportanceWeightedAutoencoder,
    images: datasets.Dataset,
    data: runs.DataDescription,
    trained: formats.Training,
    run: runs.RunDirectory,
    workers: distribute.Workers,
) -> runs.Results | None:
    """Evaluates a trained model, draws the figures, and writes everything; continues an interrupted evaluation.

    What is measured already is only drawn again, as for another format of the figures.

    Args:
      options: the `Options`.
      model: the trained model.
      images: the images.
      data: their description.
      trained: as `training.train` returns it.
      run: the claimed run directory, to which the chief writes.
      workers: all of them call this.

    Returns:
      The results, or None in the workers that do not write them.

    Raises:
      UserError: the bounds are not finite.
      signals.Interrupted: a signal asked to stop, and what is finished is saved.
    """
    passes = evaluation_passes(options, images, model.support)
    before = _measured_before(options, run) if workers.is_chief else None
    if workers.any(before is not None):
        if not before:
            return None
        results, per_image = before
        _show(options, model, images, passes["test"].draw(), results, per_image, run)
        return results
    estimates = measure_passes(options, model, passes, trained, run, workers)
    if not workers.is_chief:
        return None
    for name, measured in estimates.items():
        _refuse_infinite(passes[name].title, measured)
    test = passes["test"].draw()
    results = runs.Results(
        **_likelihoods(options, passes, estimates),
        **_units(model, images, test),
        bits_per_dimension=_bits_per_dimension(options, test, estimates["test"]),
        data=data,
        training=trained,
        flags=stored.result_flags(options),
        versions=_versions(),
        machine=machine.describe(),
    )
    files.write_arrays(run.test_log_likelihoods, _per_image(options, estimates))
    run.write_results(results)  # First: no picture may cost the results.
    _show(options, model, images, test, results, draw.PerImage.of(estimates["test"]), run)
    return results


def _show(options, model, images, test, results, per_image, run):
    """Draws the figures, writes what TensorBoard shows, and forgets what would continue the evaluation."""
    board.write_results(options, results, model, images, test, per_image.log_likelihoods, run)
    draw.draw(options, model, images, test, per_image, results, run)
    run.unfinished_evaluation.unlink(missing_ok=True)


def _measured_before(options, run):
    """The stored results and the values of each test image, or None if they have to be measured."""
    results = finished.measured_results(options, run)
    arrays = files.read_arrays(run.test_log_likelihoods) if results else None
    per_image = draw.PerImage.from_arrays(arrays, results.nll.num_images) if results and arrays else None
    if not per_image or msgspec.UNSET in (results.bounds, results.corrected_nll, results.units):
        return None
    return results, per_image


def _refuse_infinite(title, estimates):
    """Raises a UserError for bounds that are not finite."""
    wrong = np.flatnonzero(~estimates.finite)
    if len(wrong):
        raise UserError(
            f"The bounds of {len(wrong)} {title} are not finite (the first is number {wrong[0]}, "
            f"{estimates.log_likelihoods[wrong[0]]} nats), so there is no NLL: the training failed; train again with a "
            "smaller --learning_rate and --overwrite."
        )


def _likelihoods(options, passes, estimates):
    """The parts of the results that come from importance samples."""
    test = estimates["test"]
    return {
        "nll": _nll(test, binarization_seed=passes["test"].seed),
        "bounds": [formats.BoundWithStderr(k=k, **mean_and_stderr(test.at(k))) for k in test.counts],
        "corrected_nll": formats.Mean(**mean_and_stderr(-test.corrected)),
        "effective_sample_size": _quantiles(test.effective_sample_sizes),
        "largest_weight": _quantiles(test.largest_weights),
        "elbo": float(test.elbos.mean()),
        "iwae_bound": formats.Bound(k=test.k, mean=float(test.iwae_bounds.mean())),
        "k_hat": _k_hat(test) if options.khat_images else msgspec.UNSET,
        "binarizations": _binarizations(passes, estimates) if options.binarization_seeds > 1 else msgspec.UNSET,
        "train_nll": _nll(estimates["train"]) if options.train_nll_images else msgspec.UNSET,
    }


def _bits_per_dimension(options, test, estimates):
    """The NLL in bits for each observed value."""
    if options.likelihood != "discretized_logistic":
        return msgspec.UNSET
    return -float(estimates.log_likelihoods.sum()) / math.log(2.0) / int(np.sum(~np.isnan(test)))


def _nll(estimates, **seed):
    mean = mean_and_stderr(-estimates.log_likelihoods)
    sizes = {"num_samples": estimates.num_samples, "num_images": len(estimates)}
    return formats.NegativeLogLikelihood(**mean, **sizes, **seed)


def _quantiles(values):
    return msgspec.convert(quantiles(values), formats.Quantiles)


def _k_hat(estimates):
    measured = estimates.k_hats[~np.isnan(estimates.k_hats)]
    above = float(np.mean(measured > pareto.K_HAT_THRESHOLD))
    return formats.KHat(num_images=len(measured), threshold=pareto.K_HAT_THRESHOLD, share_above=above)


def _binarizations(passes, estimates):
    """The same NLL on other binarisations of the same images."""
    names = [name for name in passes if name != "train"]
    means = [float(-estimates[name].log_likelihoods.mean()) for name in names]
    seeds = [passes[name].seed for name in names]
    mean, sd = float(np.mean(means)), float(np.std(means, ddof=1))
    return formats.Binarizations(seeds=seeds, nll=means, mean=mean, sd=sd)


def _units(model, images, test):
    """The parts of the results about latent units: counts by both definitions, and the statistics of each unit."""
    train = observations.fixed(images.train[: units.AUTHORS_NUM_IMAGES], "train", model.support)
    layers = units.measure(model, test)
    authors = formats.AuthorsActiveUnits(
        per_layer=units.active_units(model, train, units.AUTHORS_NUM_SAMPLES),
        num_images=len(train),
        num_samples=units.AUTHORS_NUM_SAMPLES,
        split="train",
    )
    active = formats.ActiveUnits(
        per_layer=[layer.num_active() for layer in layers],
        threshold=units.ACTIVE_UNIT_THRESHOLD,
        num_images=len(test),
        num_samples=units.ACTIVE_UNIT_SAMPLES,
        authors_code=authors,
    )
    return {"active_units": active, "units": [formats.UnitStatistics(**layer.to_dict()) for layer in layers]}


def _per_image(options: Options, estimates: Mapping[str, Estimates]) -> dict[str, np.ndarray]:
    """The content of test_log_likelihoods.npz, name -> array."""
    test = estimates["test"]
    arrays = {
        "log_likelihood": test.log_likelihoods,
        "effective_sample_size": test.effective_sample_sizes,
        "largest_weight": test.largest_weights,
        "bounds": test.bounds,
        "counts": np.array(test.counts),
    }
    if options.khat_images:
        arrays["k_hat"] = test.k_hats
    for name, measured in estimates.items():
        if name == "train":
            arrays["train_log_likelihood"] = measured.log_likelihoods
        elif name != "test":
            arrays[f"log_likelihood_{name}"] = measured.log_likelihoods
    return arrays


def _versions():
    packages = {"tensorflow": "tensorflow", "keras": "keras", "tensorflow_probability": "tensorflow-probability"}
    return {name: importlib.metadata.version(package) for name, package in packages.items()} | {"iwae_tf": __version__}
