"""The passes over images that make up an evaluation."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from iwae_tf import datasets, models, runs
from iwae_tf.datasets import observations
from iwae_tf.evaluation import log_likelihood
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.experiment.flags import EVALUATION_FLAGS, Options
from iwae_tf.experiment.unfinished import UnfinishedEvaluation
from iwae_tf.runs.results import Training
from iwae_tf.runtime import console, distribute, progress
from iwae_tf.supports import Support

_SECONDS_BETWEEN_WRITES = 60.0


class Pass(NamedTuple):
    """Images that are measured together.

    Attributes:
      title: what they are, for messages.
      noun: "images" or "rows".
      num_images: how many there are.
      draw: a function that returns them, float array [num_images, event].
      seed: the seed of their binarisation.
      num_k_hats: the number of images, the first ones, whose k-hat is measured.
    """

    title: str
    noun: str
    num_images: int
    draw: Callable[[], np.ndarray]
    seed: int = observations.SEED
    num_k_hats: int = 0


def evaluation_passes(options: Options, images: datasets.Dataset, support: Support) -> dict[str, Pass]:
    """Returns the passes that the options ask for.

    Returns:
      The passes by name: "test", the test images in the binarisation that every run uses; if asked for,
      "binarization_1" and so on, the test images in other binarisations, and "train", training images.
    """

    noun = images.noun

    def new_pass(title, stack, split, seed=observations.SEED, num_k_hats=0):
        draw = functools.partial(observations.fixed, stack, split, support, seed)
        return Pass(title, noun, len(stack), draw, seed, num_k_hats)

    passes = {"test": new_pass(f"test {noun}", images.test, "test", num_k_hats=options.khat_images)}
    first = observations.SEED + 1
    for seed in range(first, first + options.binarization_seeds - 1):
        title = f"test {noun} of binarisation {seed}"
        passes[f"binarization_{seed}"] = new_pass(title, images.test, "test", seed)
    if options.train_nll_images:
        passes["train"] = new_pass(f"training {noun}", images.train[: options.train_nll_images], "train")
    return passes


def measure_passes(
    options: Options,
    model: models.ImportanceWeightedAutoencoder,
    passes: Mapping[str, Pass],
    trained: Training,
    run: runs.RunDirectory,
    workers: distribute.Workers,
) -> dict[str, Estimates]:
    """Measures all passes; continues an interrupted evaluation of the same passes.

    Args:
      options: the `Options`.
      model: the trained model.
      passes: as `evaluation_passes` returns them.
      trained: as `training.train` returns it.
      run: the claimed run directory, to which the chief writes.
      workers: all of them call this.

    Returns:
      The `Estimates` of each pass.

    Raises:
      signals.Interrupted: a signal asked to stop, and what is finished is saved.
    """
    path = run.unfinished_evaluation if workers.is_chief else None
    num_images = {name: images.num_images for name, images in passes.items()}
    unfinished = UnfinishedEvaluation(path, _evaluation(options, trained, num_images))
    estimates = unfinished.read(num_images, options.nll_samples, options.total_samples)
    try:
        for name in passes:
            begun = _from_chief(estimates[name], workers)
            estimates[name] = begun
            if len(begun):
                console.note(f"{len(begun):,} of the {num_images[name]:,} {passes[name].title} were measured before")
            if len(begun) < num_images[name]:
                report = _reporter(name, passes, estimates, unfinished) if workers.is_chief else None
                estimates[name] = log_likelihood.evaluate_images(
                    model,
                    passes[name].draw(),
                    options.nll_samples,
                    num_k_hats=passes[name].num_k_hats,
                    report=report,
                    begun=begun,
                )
    finally:
        unfinished.write(estimates)
    return estimates


def _evaluation(options, trained, num_images):
    """What tells the evaluations of a run apart; its other flags cannot change."""
    flags = {name: getattr(options, name) for name in EVALUATION_FLAGS}
    return {"steps": trained.steps, "num_images": num_images, **flags}


def _from_chief(estimates, workers):
    """Returns the chief's estimates in all workers."""
    size = workers.any(len(estimates))
    if not size:
        return estimates
    if len(estimates) != size:
        estimates = Estimates.zeros(estimates.num_samples, estimates.k, size)
    return estimates.with_arrays(workers.from_chief(estimates.arrays()))


def _reporter(name, passes, estimates, unfinished):
    """Returns a function of the estimates of a pass so far; it prints progress and saves them now and then."""
    title, num_images = passes[name].title, passes[name].num_images
    later = list(passes)[list(passes).index(name) + 1 :]
    missing = sum(passes[other].num_images - len(estimates[other]) for other in later)
    num_samples = estimates[name].num_samples
    console.note(f"evaluating {num_images:,} {title} with {num_samples:,} samples each")
    countdown = progress.Countdown(num_images, len(estimates[name]), missing, noun=passes[name].noun)

    def report(finished):
        estimates[name] = finished
        countdown.update(len(finished), f"NLL {-finished.log_likelihoods.mean():.2f} nats")
        unfinished.write(estimates, _SECONDS_BETWEEN_WRITES)

    return report
