"""What a run's evaluation finds and leaves behind: results.json, arrays for each image, and pictures."""

import importlib.metadata

import numpy as np

import iwae_tf
from iwae_tf import binarization, evaluation, figures, files, latents, measurements, options, psis, runs, summary, units
from iwae_tf.errors import UserError

_NUM_SAMPLES_DRAWN = 100
_NUM_WORST = 10
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
    passes = measurements.passes(flags, images)
    bounds = measurements.measure(flags, model, passes, trained, run, workers)
    if not workers.is_chief:
        return None
    for one, measured in zip(passes, bounds, strict=True):
        _refuse_infinite(one.name, measured)
    test = passes[0].draw()
    found = _results(flags, model, images, test, bounds) | _circumstances(flags, data, trained)
    files.write_arrays(run.test_log_likelihoods, _per_image(flags, bounds))
    _draw(flags, model, test, bounds[0], found, run)
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
        "bounds": [{"k": count, **evaluation.mean_and_stderr(of_test.at(count))} for count in of_test.counts],
        "corrected_nll": evaluation.mean_and_stderr(-of_test.corrected),
        "effective_sample_size": _quantiles(of_test.effective_sample_sizes),
        "largest_weight": _quantiles(of_test.largest_weights),
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
        **evaluation.mean_and_stderr(-bounds.log_likelihoods),
        "num_samples": bounds.num_samples,
        "num_images": len(bounds),
    }


def _k_hat(bounds):
    """How many images have weights whose average cannot be trusted."""
    measured = bounds.k_hats[~np.isnan(bounds.k_hats)]
    above = float(np.mean(measured > psis.K_HAT_THRESHOLD))
    return {"num_images": len(measured), "threshold": psis.K_HAT_THRESHOLD, "share_above": above}


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


def _quantiles(values):
    """Where a number lies that each image has, plain JSON."""
    return {"mean": float(values.mean())} | {f"{q:.0%}": float(np.quantile(values, q)) for q in (0.01, 0.1, 0.5, 0.9)}


def _draw(flags, model, test, bounds, results, run):
    """Draws samples, reconstructions, the worst images, the bounds against their samples, and learning curves."""
    run.figures.mkdir(exist_ok=True)
    image_shape = results["data"]["image_shape"]
    samples = evaluation.sample_means(model, _NUM_SAMPLES_DRAWN, image_shape)
    pairs = evaluation.reconstruction_pairs(model, test, image_shape)
    files.write_arrays(run.samples, {"probabilities": samples, "reconstructions": pairs})
    figures.save_image(run.figures / "samples.png", figures.image_grid(samples, columns=10))
    figures.save_image(run.figures / "reconstructions.png", figures.image_grid(pairs, columns=10))
    _draw_worst(model, test, bounds, image_shape, run.figures / "worst_images.png")
    corrected = -results["corrected_nll"]["mean"]
    figures.save_bound_curve(run.figures / "samples_needed.png", results["bounds"], corrected, summary.title(flags))
    _draw_latents(model, test, results, image_shape, run, summary.title(flags))
    rows = run.read_history()
    if not rows:
        return
    history = {name: [row[name] for row in rows] for name in runs.HISTORY_COLUMNS}
    figures.save_learning_curves(run.figures / "bounds.png", history, summary.title(flags), model.num_samples)


def _draw_worst(model, test, bounds, image_shape, path):
    """Draws the images whose log-likelihoods are least certain: by k-hat where it is known, else by largest weight."""
    known = np.isfinite(bounds.k_hats).any()
    badness = np.where(np.isnan(bounds.k_hats), -np.inf, bounds.k_hats) if known else bounds.largest_weights
    worst = np.argsort(-badness, kind="stable")[:_NUM_WORST]
    pairs = evaluation.reconstruction_pairs(model, test[worst], image_shape, _NUM_WORST, _NUM_WORST)
    captions = [_caption(bounds, i) for i in worst]
    title = "largest k-hat" if known else "largest normalized weight"
    figures.save_worst_images(path, pairs[: len(worst)], pairs[len(worst) :], captions, title)


def _caption(bounds, image):
    """What there is to say of one test image."""
    lines = [f"no. {image}", f"NLL {-bounds.log_likelihoods[image]:.1f}"]
    if not np.isnan(bounds.k_hats[image]):
        lines.append(f"k-hat {bounds.k_hats[image]:.2f}")
    lines += [f"ESS {bounds.effective_sample_sizes[image]:.1f}", f"largest {bounds.largest_weights[image]:.0%}"]
    return "\n".join(lines)


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
