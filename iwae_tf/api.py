"""The functions of the public API; `import iwae_tf` offers them, and imports this module on first use."""

import dataclasses
import numbers
import pathlib
from typing import Any

import numpy as np

from iwae_tf import datasets, models, training
from iwae_tf.errors import UserError
from iwae_tf.evaluation import log_likelihood as streaming
from iwae_tf.experiment import build
from iwae_tf.runs import RunDirectory
from iwae_tf.runs.results import Training, describe_data


def load(run_dir: str | pathlib.Path) -> models.ImportanceWeightedAutoencoder:
    """Returns the trained model of a run directory, with the weights that were evaluated.

    Args:
      run_dir: the folder, as given to `--run_dir`.

    Returns:
      A built `ImportanceWeightedAutoencoder`.

    Raises:
      iwae_tf.errors.UserError: there is no trained model.
    """
    return build.load(run_dir)


def load_dataset(
    name: str, data_dir: str = "", train_split: str = "", validation_split: str = "", test_split: str = ""
) -> datasets.Images:
    """Returns a data set with its splits; see `iwae_tf.datasets.load` for the arguments.

    Returns:
      `iwae_tf.datasets.Images`: `train`, `validation` and `test` are uint8 [num_images, event], not binarised.

    Raises:
      iwae_tf.errors.UserError: the name is unknown, or the data cannot be loaded.
    """
    return datasets.load(name, data_dir, train_split, validation_split, test_split)


def train(
    model: models.ImportanceWeightedAutoencoder,
    images: datasets.Images,
    plan: training.Plan,
    run_dir: str | pathlib.Path,
    overwrite: bool = False,
) -> Training:
    """Trains a model, or continues where an earlier call with the same arguments stopped.

    Checkpoints, history.csv and TensorBoard's event files are written to the folder. Afterwards the model has the
    weights to evaluate, averaged over training where the plan says so. A finished run only restores its weights.

    Args:
      model: the model, built or not.
      images: the images; grey values are binarised each time an image is used.
      plan: how to train.
      run_dir: the folder; it is created if necessary.
      overwrite: whether to remove an earlier run in the folder and start again.

    Returns:
      A `Training` with `steps`, `epochs`, `seconds` and `resumed`.

    Raises:
      iwae_tf.errors.UserError: the folder holds something else or a run with other settings, the images do not
        fit the model, or the training failed.
    """
    event = images.train.shape[1]
    if event != model.generative.event_size:
        raise UserError(
            f"The images have {event} pixels, but the model is for {model.generative.event_size}; build the "
            f"generative network with event_size={event}."
        )
    binarization = "fixed" if images.is_binary else "stochastic"
    with RunDirectory(run_dir) as run:
        run.claim(_settings(model, plan), overwrite, describe_data(binarization, images.describe()))
        return training.train(model, images, plan, run)


def _settings(model, plan):
    """Everything that decides what a training run computes, as far as it can be named, name -> text."""
    described = {
        "trained_with": "iwae_tf.train",
        "objective": " ".join(map(str, (model.objective.name, *model.objective.parameters))),
        "gradient_estimator": model.estimator.__name__,
        "num_samples": model.num_samples,
        "num_resampled": model.num_resampled,
        "beta_warmup_steps": model.beta_warmup_steps,
        "seed": model.seed,
        "latent_dims": ",".join(map(str, model.inference.latent_dims)),
    }
    unrelated = ("picture_every", "checkpoint_minutes", "jit")
    described |= {name: value for name, value in dataclasses.asdict(plan).items() if name not in unrelated}
    return {name: str(value) for name, value in described.items()}


@dataclasses.dataclass(frozen=True)
class LogLikelihood:
    """Estimates of log p(x), one per image.

    Attributes:
      values: L_k in nats, a lower bound on log p(x) in expectation, float64 [num_images].
      effective_sample_size: 1 / sum_i w~_i^2, from 1 to the number of samples, float64 [num_images].
    """

    values: np.ndarray
    effective_sample_size: np.ndarray

    @property
    def mean(self) -> float:
        """The mean over the images in nats; the NLL is its negative."""
        return float(self.values.mean())

    @property
    def stderr(self) -> float:
        """The standard error of the mean over the images; NaN for a single image."""
        return float(self.values.std(ddof=1) / np.sqrt(len(self))) if len(self) > 1 else float("nan")

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype, copy=copy)


def log_likelihood(
    model: models.ImportanceWeightedAutoencoder, x: Any, num_samples: int = 5000, seed: int = 0
) -> LogLikelihood:
    """Estimates log p(x) by importance sampling: L_k with k = num_samples (arXiv:1509.00519, section 5).

    Args:
      model: the model.
      x: [num_images, event], zeros and ones for Bernoulli pixels.
      num_samples: importance samples per image; memory does not depend on it.
      seed: seed of the samples. The noise of an image depends on its row and the seed only.

    Returns:
      A `LogLikelihood`.

    Raises:
      ValueError: x has another shape or values than the model is for, or num_samples < 1.
    """
    x = np.asarray(x, np.float32)
    event = model.generative.event_size
    if x.ndim != 2 or x.shape[1] != event or not len(x):
        raise ValueError(f"x has shape {x.shape}, but must have shape [num_images, {event}] with at least one image.")
    if not isinstance(num_samples, numbers.Integral) or num_samples < 1:
        raise ValueError(f"num_samples is {num_samples!r}, but must be an integer, at least 1.")
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**31:
        raise ValueError(f"seed is {seed!r}, but must be an integer from 0 to 2^31 - 1.")
    if not np.isfinite(x).all():
        raise ValueError("x has values that are not finite.")
    model.refuse_grey(x)
    estimates = streaming.evaluate_images(model, x, num_samples, seed)
    return LogLikelihood(estimates.log_likelihoods, estimates.effective_sample_sizes)
