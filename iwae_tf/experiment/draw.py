"""The figures of a run."""

import numpy as np

from iwae_tf import figures, runs
from iwae_tf.evaluation import latents, units
from iwae_tf.evaluation.samples import reconstruction_pairs, sample_means
from iwae_tf.experiment import summary
from iwae_tf.runtime import files

_NUM_SAMPLES_DRAWN = 100
_NUM_WORST = 10
_NUM_IMAGES_TRAVERSED = 2
_NUM_POSTERIORS = 6


def draw(flags, model, test, bounds, results, run):
    """Draws samples, reconstructions, the worst images, the bounds against their samples, and learning curves."""
    run.figures.mkdir(exist_ok=True)
    image_shape = results["data"]["image_shape"]
    samples = sample_means(model, _NUM_SAMPLES_DRAWN, image_shape)
    pairs = reconstruction_pairs(model, test, image_shape)
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
    pairs = reconstruction_pairs(model, test[worst], image_shape, _NUM_WORST, _NUM_WORST)
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
