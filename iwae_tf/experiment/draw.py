"""The figures of a run."""

import msgspec
import numpy as np

from iwae_tf import datasets, figures, models, runs
from iwae_tf.evaluation import latents, units
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.evaluation.samples import as_pictures, reconstruction_pairs, sample_means
from iwae_tf.experiment import summary
from iwae_tf.experiment.flags import Options
from iwae_tf.runtime import files

_NUM_SAMPLES_DRAWN = 100
_NUM_WORST = 10
_NUM_IMAGES_TRAVERSED = 2
_NUM_POSTERIORS = 6
_NUM_ROWS_DRAWN = 2000


def draw(
    options: Options,
    model: models.ImportanceWeightedAutoencoder,
    dataset: datasets.Dataset,
    test: np.ndarray,
    estimates: Estimates,
    results: runs.Results,
    run: runs.RunDirectory,
) -> None:
    """Draws samples, reconstructions, the worst images, latent units, L_k against k, and learning curves.

    Args:
      options: the `Options`.
      model: the trained model.
      dataset: the data set.
      test: x of the test images or rows, float [num_images, event].
      estimates: the `Estimates` of the test images.
      results: the complete `runs.Results`.
      run: the `runs.RunDirectory`.
    """
    run.figures.mkdir(exist_ok=True)
    title = summary.title(options)
    if results.data.is_table:
        _draw_table(model, dataset, run, title)
    else:
        image_shape = results.data.event_shape
        _draw_samples(model, test, image_shape, run)
        _draw_worst(model, test, estimates, image_shape, run.figures / "worst_images.png")
        _draw_latents(model, test, results, run)
    _draw_bounds(results, title, run.figures / "samples_needed.png")
    _draw_units(model, test, results, run, title)
    rows = run.read_history()
    if rows:
        history = {name: [row[name] for row in rows] for name in runs.HISTORY_COLUMNS}
        figures.save_learning_curves(run.figures / "bounds.png", history, title, model.num_samples)


def _draw_samples(model, test, image_shape, run):
    """Draws samples and reconstructions, and keeps their arrays."""
    samples = sample_means(model, _NUM_SAMPLES_DRAWN, image_shape)
    pairs = reconstruction_pairs(model, test, image_shape)
    samples, pairs = (as_pictures(means, model.support) for means in (samples, pairs))
    files.write_arrays(run.samples, {"probabilities": samples, "reconstructions": pairs})
    figures.save_image(run.figures / "samples.png", figures.image_grid(samples, columns=10))
    figures.save_image(run.figures / "reconstructions.png", figures.image_grid(pairs, columns=10))


def _draw_bounds(results, title, path):
    """Draws L_k against k."""
    bounds = [msgspec.to_builtins(bound) for bound in results.bounds]
    figures.save_bound_curve(path, bounds, -results.corrected_nll.mean, title)


def _draw_worst(model, test, estimates, image_shape, path):
    """Draws the images with the least reliable estimates: by k-hat if it was measured, else by largest weight."""
    measured = np.isfinite(estimates.k_hats).any()
    k_hats = np.where(np.isnan(estimates.k_hats), -np.inf, estimates.k_hats)
    worst = np.argsort(-(k_hats if measured else estimates.largest_weights), kind="stable")[:_NUM_WORST]
    pairs = reconstruction_pairs(model, test[worst], image_shape, _NUM_WORST, _NUM_WORST)
    captions = [_caption(estimates, i) for i in worst]
    pairs = as_pictures(pairs, model.support)
    title = "largest k-hat" if measured else "largest normalized weight"
    figures.save_worst_images(path, pairs[: len(worst)], pairs[len(worst) :], captions, title)


def _caption(estimates, image):
    """The numbers of one test image."""
    lines = [f"no. {image}", f"NLL {-estimates.log_likelihoods[image]:.1f}"]
    if not np.isnan(estimates.k_hats[image]):
        lines.append(f"k-hat {estimates.k_hats[image]:.2f}")
    lines += [f"ESS {estimates.effective_sample_sizes[image]:.1f}", f"largest {estimates.largest_weights[image]:.0%}"]
    return "\n".join(lines)


def _draw_table(model, dataset, run, title):
    """Draws rows from the model beside those of the data, and keeps them; the few test rows alone show little."""
    rows = model.draw(_NUM_ROWS_DRAWN).numpy()
    files.write_arrays(run.samples, {"rows": rows})
    data = np.concatenate([dataset.test[:_NUM_ROWS_DRAWN], dataset.train[:_NUM_ROWS_DRAWN]])
    figures.save_marginals(run.figures / "marginals.png", data, rows, dataset.columns, title)
    figures.save_pairs(run.figures / "pairs.png", data, rows, dataset.columns, title)


def _draw_units(model, test, results, run, title):
    """Draws the units; with two of them also true posteriors."""
    statistics = [msgspec.to_builtins(layer) for layer in results.units]
    figures.save_units(run.figures / "units.png", statistics, results.active_units.threshold, title)
    if model.inference.latent_dims != [2] or results.data.is_table:
        return
    x = test[:_NUM_POSTERIORS]
    posteriors = latents.posteriors(model, x)
    pictures = as_pictures(x.reshape(-1, *results.data.event_shape), model.support)
    figures.save_posteriors(run.figures / "posterior.png", pictures, posteriors, title)


def _draw_latents(model, test, results, run):
    """Draws traversals; with two latent units also the manifold."""
    layers = [units.Units.from_dict(msgspec.to_builtins(layer)) for layer in results.units]
    image_shape = results.data.event_shape
    x = test[:_NUM_IMAGES_TRAVERSED]
    rows, pixels = latents.traversal(model, x, layers)
    labels = [f"layer {layer + 1}, unit {unit + 1}, KL {layers[layer].kls[unit]:.2f}" for layer, unit in rows]
    pixels = as_pictures(pixels.reshape(*pixels.shape[:3], *image_shape), model.support)
    first = as_pictures(x.reshape(-1, *image_shape), model.support)
    figures.save_traversal(run.figures / "traversal.png", first, labels, latents.STDDEVS, pixels)
    if model.inference.latent_dims == [2]:
        manifold = as_pictures(latents.manifold(model).reshape(-1, *image_shape), model.support)
        figures.save_image(run.figures / "manifold.png", figures.image_grid(manifold, latents.MANIFOLD_SIDE, gap=0))
