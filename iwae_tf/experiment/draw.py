"""The figures of a run."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import msgspec
import numpy as np

from iwae_tf import datasets, figures, models, runs
from iwae_tf.evaluation import embedding, latents, units
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.evaluation.samples import as_pictures, reconstruction_pairs, sample_means
from iwae_tf.evaluation.statistics import mean_and_stderr
from iwae_tf.experiment import summary
from iwae_tf.experiment.flags import Options
from iwae_tf.runtime import files

_NUM_SAMPLES_DRAWN = 100
_NUM_WORST = 10
_NUM_IMAGES_TRAVERSED = 2
_NUM_POSTERIORS = 6
_NUM_ROWS_DRAWN = 2000
# Pairs of test images, and pictures between the two.
_NUM_INTERPOLATED, _NUM_BETWEEN = 10, 10
# More classes would not be legible.
_MOST_CLASSES = 30


class PerImage(NamedTuple):
    """What figures show of single test images, each [num_images]; see `Estimates`."""

    log_likelihoods: np.ndarray
    effective_sample_sizes: np.ndarray
    largest_weights: np.ndarray
    k_hats: np.ndarray

    @classmethod
    def of(cls, estimates: Estimates) -> Self:
        """Returns those of estimates."""
        return cls(*(getattr(estimates, name) for name in cls._fields))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], num_images: int) -> Self | None:
        """Returns those in test_log_likelihoods.npz, or None if it has not all of them."""
        names = ("log_likelihood", "effective_sample_size", "largest_weight")
        values = [arrays.get(name) for name in names] + [arrays.get("k_hat", np.full(num_images, np.nan))]
        complete = [value for value in values if value is not None and value.shape == (num_images,)]
        return cls(*complete) if len(complete) == len(values) else None


# Name of a figure -> its files, one for each format.
_Files = Callable[[str], figures.Paths]


def draw(
    options: Options,
    model: models.ImportanceWeightedAutoencoder,
    dataset: datasets.Dataset,
    test: np.ndarray,
    per_image: PerImage,
    results: runs.Results,
    run: runs.RunDirectory,
) -> None:
    """Draws everything: images, latent units, classes, L_k against k, and, last of all, learning curves.

    Args:
      options: the `Options`.
      model: the trained model.
      dataset: the data set.
      test: x of the test images or rows, float [num_images, event].
      per_image: the values of each test image.
      results: the complete `runs.Results`.
      run: the `runs.RunDirectory`.
    """
    run.figures.mkdir(exist_ok=True)
    title, paths = summary.title(options), functools.partial(_paths, run, options.figure_format)
    if results.data.is_table:
        _draw_table(model, dataset, run, paths, title)
    else:
        image_shape = results.data.event_shape
        _draw_samples(model, test, image_shape, run, paths)
        _draw_interpolations(model, test, image_shape, paths)
        _draw_worst(model, test, per_image, image_shape, paths)
        _draw_latents(model, test, results, paths)
    _draw_bounds(results, title, paths)
    _draw_units(model, test, results, paths, title)
    _draw_classes(model, dataset, test, per_image, paths, title)
    rows = run.read_history()
    if rows:
        history = {name: [row[name] for row in rows] for name in runs.HISTORY_COLUMNS}
        figures.save_learning_curves(paths("bounds"), history, title, model.num_samples)


def _paths(run: runs.RunDirectory, formats: Sequence[str], name: str) -> figures.Paths:
    return [run.figures / f"{name}.{form}" for form in formats]


def _draw_samples(model, test, image_shape, run, paths: _Files):
    """Draws samples and reconstructions, and keeps their arrays."""
    samples = sample_means(model, _NUM_SAMPLES_DRAWN, image_shape)
    pairs = reconstruction_pairs(model, test, image_shape)
    samples, pairs = (as_pictures(means, model.support) for means in (samples, pairs))
    files.write_arrays(run.samples, {"probabilities": samples, "reconstructions": pairs})
    figures.save_image(paths("samples"), figures.image_grid(samples, columns=10))
    figures.save_image(paths("reconstructions"), figures.image_grid(pairs, columns=10))


def _draw_interpolations(model, test, image_shape, paths: _Files):
    """Draws pictures between the test images 1 and 2, 3 and 4, ..., and the images themselves at both ends."""
    first, last = test[: 2 * _NUM_INTERPOLATED : 2], test[1 : 2 * _NUM_INTERPOLATED : 2]
    first = first[: len(last)]
    if not len(last):
        return
    between = model.interpolate(first, last, _NUM_BETWEEN).numpy()
    rows = np.concatenate([first[np.newaxis], between, last[np.newaxis]]).swapaxes(0, 1)
    pictures = as_pictures(rows.reshape(-1, *image_shape), model.support)
    figures.save_image(paths("interpolations"), figures.image_grid(pictures, columns=_NUM_BETWEEN + 2))


def _draw_classes(model, dataset, test, per_image, paths: _Files, title):
    """Draws embeddings of posterior means, and the NLL of each class of the test images."""
    labels = dataset.test_labels
    if labels is not None and len(np.unique(labels)) > _MOST_CLASSES:
        labels = None
    rows = {
        f"layer {number}": embedding.embeddings(means)
        for number, means in enumerate(embedding.posterior_means(model, test[: embedding.NUM_ROWS]), start=1)
    }
    shown = None if labels is None else labels[: embedding.NUM_ROWS]
    figures.save_embeddings(paths("embedding"), rows, shown, f"{title}: posterior means")
    if labels is not None:
        nlls = -per_image.log_likelihoods
        classes = [{"label": str(label), **mean_and_stderr(nlls[labels == label])} for label in np.unique(labels)]
        figures.save_nll_by_class(paths("nll_by_class"), classes, float(nlls.mean()), title)


def _draw_bounds(results, title, paths: _Files):
    """Draws L_k against k."""
    bounds = [msgspec.to_builtins(bound) for bound in results.bounds]
    figures.save_bound_curve(paths("samples_needed"), bounds, -results.corrected_nll.mean, title, results.data.noun)


def _draw_worst(model, test, per_image, image_shape, paths: _Files):
    """Draws the images with the least reliable estimates: by k-hat if it was measured, else by largest weight."""
    measured = np.isfinite(per_image.k_hats).any()
    k_hats = np.where(np.isnan(per_image.k_hats), -np.inf, per_image.k_hats)
    worst = np.argsort(-(k_hats if measured else per_image.largest_weights), kind="stable")[:_NUM_WORST]
    pairs = reconstruction_pairs(model, test[worst], image_shape, _NUM_WORST, _NUM_WORST)
    captions = [_caption(per_image, i) for i in worst]
    pairs = as_pictures(pairs, model.support)
    title = "largest k-hat" if measured else "largest normalised weight"
    figures.save_worst_images(paths("worst_images"), pairs[: len(worst)], pairs[len(worst) :], captions, title)


def _caption(per_image, image):
    """The numbers of one test image."""
    lines = [f"no. {image}", f"NLL {-per_image.log_likelihoods[image]:.1f}"]
    if not np.isnan(per_image.k_hats[image]):
        lines.append(f"k-hat {per_image.k_hats[image]:.2f}")
    lines += [f"ESS {per_image.effective_sample_sizes[image]:.1f}", f"largest {per_image.largest_weights[image]:.0%}"]
    return "\n".join(lines)


def _draw_table(model, dataset, run, paths: _Files, title):
    """Draws rows from the model beside those of the data, and keeps them; the few test rows alone show little."""
    rows = model.draw(_NUM_ROWS_DRAWN).numpy()
    files.write_arrays(run.samples, {"rows": rows})
    data = np.concatenate([dataset.test[:_NUM_ROWS_DRAWN], dataset.train[:_NUM_ROWS_DRAWN]])
    figures.save_marginals(paths("marginals"), data, rows, dataset.columns, title)
    figures.save_pairs(paths("pairs"), data, rows, dataset.columns, title)


def _draw_units(model, test, results, paths: _Files, title):
    """Draws the units; with two of them also true posteriors."""
    statistics = [msgspec.to_builtins(layer) for layer in results.units]
    figures.save_units(paths("units"), statistics, results.active_units.threshold, title)
    if model.inference.latent_dims != [2] or results.data.is_table:
        return
    x = test[:_NUM_POSTERIORS]
    posteriors = latents.posteriors(model, x)
    pictures = as_pictures(x.reshape(-1, *results.data.event_shape), model.support)
    figures.save_posteriors(paths("posterior"), pictures, posteriors, title)


def _draw_latents(model, test, results, paths: _Files):
    """Draws traversals; with two latent units also the manifold."""
    layers = [units.Units.from_dict(msgspec.to_builtins(layer)) for layer in results.units]
    image_shape = results.data.event_shape
    x = test[:_NUM_IMAGES_TRAVERSED]
    rows, pixels = latents.traversal(model, x, layers)
    labels = [f"layer {layer + 1}, unit {unit + 1}, KL {layers[layer].kls[unit]:.2f}" for layer, unit in rows]
    pixels = as_pictures(pixels.reshape(*pixels.shape[:3], *image_shape), model.support)
    first = as_pictures(x.reshape(-1, *image_shape), model.support)
    figures.save_traversal(paths("traversal"), first, labels, latents.STDDEVS, pixels)
    if model.inference.latent_dims == [2]:
        manifold = as_pictures(latents.manifold(model).reshape(-1, *image_shape), model.support)
        figures.save_image(paths("manifold"), figures.image_grid(manifold, latents.MANIFOLD_SIDE, gap=0))
