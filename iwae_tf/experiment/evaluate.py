"""What a run's evaluation finds and leaves behind: results.json, arrays for each image, and pictures."""

import importlib.metadata

import numpy as np

from iwae_tf.datasets import binarization
from iwae_tf.errors import UserError
from iwae_tf.evaluation import pareto, statistics, units
from iwae_tf.experiment import draw, options
from iwae_tf.experiment.passes import evaluation_passes, measure_passes
from iwae_tf.runtime import files
from iwae_tf.version import __version__


def evaluate(flags, model, images, data, trained, run, workers):
    """Evaluates a trained model, draws, and writes it all down; begins where an interrupted evaluation was.

    Args:
      flags: as `options.parse` returns them.
      model: the trained `ImportanceWeightedAutoencoder`.
      images: `datasets.Images`.
      data: what is on record of them, see `experiment.images`.
      trained: as `training.train` returns it.
      run: the claimed `runs.RunDirectory`, to which the chief writes.
      workers: `distribute.Workers`, all of which call this.

    Returns:
      What results.json holds, or None in the workers that do not write it.

    Raises:
      UserError: the bounds are not finite.
      signals.Interrupted: a signal asked to stop, and what is finished is saved.
    """
    passes = evaluation_passes(flags, images)
    bounds = measure_passes(flags, model, passes, trained, run, workers)
    if not workers.is_chief:
        return None
    for one, measured in zip(passes, bounds, strict=True):
        _refuse_infinite(one.name, measured)
    test = passes[0].draw()
    found = _results(flags, model, images, test, bounds) | _circumstances(flags, data, trained)
    files.write_arrays(run.test_log_likelihoods, _per_image(flags, bounds))
    draw.draw(flags, model, test, bounds[0], found, run)
    run.write_results(found)  # Last, since it marks the run as finished.
    run.unfinished_evaluation.unlink(missing_ok=True)
    return found


def _refuse_infinite(name, bounds):
    """Raises a UserError for bounds that are not finite."""
    wrong = np.flatnonzero(~bounds.finite)
    if len(wrong):
        raise UserError(
            f"The bounds of {len(wrong)} {name} are not finite (the first is number {wrong[0]}, "
            f"{bounds.log_likelihoods[wrong[0]]} nats), so there is no NLL: the model went wrong in training; train it "
            "anew with a smaller --learning_rate and --overwrite."
        )


def _results(flags, model, images, test, bounds):
    """What was measured, plain JSON."""
    of_test = bounds[0]
    found = {
        "nll": {**_nll(of_test), "binarization_seed": binarization.FIXED_BINARIZATION_SEED},
        "bounds": [{"k": count, **statistics.mean_and_stderr(of_test.at(count))} for count in of_test.counts],
        "corrected_nll": statistics.mean_and_stderr(-of_test.corrected),
        "effective_sample_size": statistics.quantiles(of_test.effective_sample_sizes),
        "largest_weight": statistics.quantiles(of_test.largest_weights),
        "elbo": float(of_test.elbos.mean()),
        "iwae_bound": {"k": model.num_samples, "mean": float(of_test.iwae_bounds.mean())},
        **_units(model, images, test),
    }
    if flags.khat_images:
        found["k_hat"] = _k_hat(of_test)
    if flags.binarization_seeds > 1:
        found["binarizations"] = _over_binarizations(bounds[: flags.binarization_seeds])
    if flags.train_nll_images:
        found["train_nll"] = _nll(bounds[-1])
    return found


def _nll(bounds):
    """The NLL of a pass, with what it rests on."""
    return {
        **statistics.mean_and_stderr(-bounds.log_likelihoods),
        "num_samples": bounds.num_samples,
        "num_images": len(bounds),
    }


def _k_hat(bounds):
    """How many images have weights whose average cannot be trusted."""
    measured = bounds.k_hats[~np.isnan(bounds.k_hats)]
    above = float(np.mean(measured > pareto.K_HAT_THRESHOLD))
    return {"num_images": len(measured), "threshold": pareto.K_HAT_THRESHOLD, "share_above": above}


def _over_binarizations(bounds):
    """The same NLL on other binarisations of the same images."""
    means = [float(-one.log_likelihoods.mean()) for one in bounds]
    seeds = list(range(binarization.FIXED_BINARIZATION_SEED, len(bounds)))
    return {"seeds": seeds, "nll": means, "mean": float(np.mean(means)), "sd": float(np.std(means, ddof=1))}


def _circumstances(flags, data, trained):
    """What the results are of, plain JSON."""
    return {"data": data, "training": trained, "flags": options.result_flags(flags), "versions": _versions()}


def _per_image(flags, bounds):
    """What test_log_likelihoods.npz holds, name -> array."""
    of_test = bounds[0]
    arrays = {
        "log_likelihood": of_test.log_likelihoods,
        "effective_sample_size": of_test.effective_sample_sizes,
        "largest_weight": of_test.largest_weights,
        "bounds": np.stack([of_test.at(count) for count in of_test.counts]),
        "counts": np.array(of_test.counts),
    }
    if flags.khat_images:
        arrays["k_hat"] = of_test.k_hats
    for seed in range(1, flags.binarization_seeds):
        arrays[f"log_likelihood_binarization_{seed}"] = bounds[seed].log_likelihoods
    if flags.train_nll_images:
        arrays["train_log_likelihood"] = bounds[-1].log_likelihoods
    return arrays


def _units(model, images, test):
    """What results.json holds of the latent units: counts by both definitions, and the statistics of each."""
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


def _versions():
    names = {name: name for name in ("tensorflow", "keras")} | {"tensorflow_probability": "tensorflow-probability"}
    return {key: importlib.metadata.version(name) for key, name in names.items()} | {"iwae_tf": __version__}
