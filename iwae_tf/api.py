"""The functions of the public API; `import iwae_tf` offers them, and imports this module on first use."""

import dataclasses
import json
import pathlib
from typing import Any

import keras

from iwae_tf import datasets, models, training
from iwae_tf.errors import UserError, first_line
from iwae_tf.experiment import build
from iwae_tf.importance import LogLikelihood
from iwae_tf.runs import RunDirectory
from iwae_tf.runs.directory import TRAINED_WITH
from iwae_tf.runs.results import Training, describe_data
from iwae_tf.runtime import files


def load(
    run_dir_or_name: str | pathlib.Path, model: models.ImportanceWeightedAutoencoder | None = None
) -> models.ImportanceWeightedAutoencoder:
    """Returns a trained model with the weights that were evaluated.

    Args:
      run_dir_or_name: a folder, as given to `--run_dir` or to `train`; or the name of a released model, such as
        "mnist_iwae_1l_k1" (`iwae-tf models` lists them).
      model: for a run of `train`, the model to give the weights to. It is needed only if a layer has no `get_config`;
        otherwise the run describes the model, and layers of your own must be registered with
        `keras.saving.register_keras_serializable`.

    Returns:
      A built `ImportanceWeightedAutoencoder` with the dtype policy that it was trained with.

    Raises:
      iwae_tf.errors.UserError: there is no trained model, or it cannot be built.
    """
    run = build.trained_run(run_dir_or_name)
    settings = run.read_flags()
    if TRAINED_WITH not in settings:
        return build.load(run)
    model = model or _described_model(run)
    training.prepare(model, _plan(settings))
    training.restore(model, run)
    training.use_averages(model)
    return model


load_dataset = datasets.load


def train(
    model: models.ImportanceWeightedAutoencoder,
    images: datasets.Dataset,
    plan: training.Plan,
    run_dir: str | pathlib.Path,
    overwrite: bool = False,
) -> Training:
    """Trains a model, or continues where an earlier call with the same arguments stopped.

    Checkpoints, history.csv and TensorBoard's event files are written to the folder. Afterwards the model has the
    weights to evaluate, averaged over training where the plan says so. A finished run only restores its weights.

    Args:
      model: the model, built or not.
      images: the data; for Bernoulli pixels, grey values are binarised each time an image is used.
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
            f"The data have {event} values a row, but the model is for {model.generative.event_size}; build the "
            f"generative network with event_size={event}."
        )
    images.check(model.support, "The data set")
    if images.num_missing and not model.missing_values:
        raise UserError(
            f"The data set has {images.num_missing:,} missing values; build the likelihood with missing_values=True, "
            "and the inference network with an input_layer such as layers.Preprocessing(..., missing_values=True)."
        )
    binarization = "none"
    if model.support.is_binary:
        binarization = "fixed" if images.is_binary else "stochastic"
    plan.steps_per_epoch(len(images.train))  # Refuses a batch size before there is a folder.
    with RunDirectory(run_dir) as run:
        if not overwrite:
            _refuse_other_run(run, model, plan)
        run.claim(_settings(model, plan), overwrite, describe_data(binarization, images.describe()))
        description = _description(model)
        if description:
            files.write_atomically(run.model, (json.dumps(description, indent=2) + "\n").encode())
        return training.train(model, images, plan, run)


def _description(model):
    """Keras' configuration of a model, or None if a layer of it has none."""
    try:
        description = keras.saving.serialize_keras_object(model)
    except (NotImplementedError, TypeError, ValueError):
        return None
    return {name: value for name, value in description.items() if name not in ("build_config", "compile_config")}


def _described_model(run):
    """Builds the model that a run describes."""
    remedy = "build the same model and pass it: iwae_tf.load(run_dir, model)"
    if not run.model.exists():
        raise UserError(f"{run.path} does not describe its model, as a layer of it has no get_config; {remedy}.")
    try:
        model = keras.saving.deserialize_keras_object(json.loads(run.model.read_bytes()))
        if isinstance(model, models.ImportanceWeightedAutoencoder):
            return model
        raise ValueError(f"it describes {type(model).__name__}")
    except Exception as error:  # What Keras raises depends on the class that it looks for.
        cause = error
        while cause.__context__:
            cause = cause.__context__
        reason = first_line(cause).partition(". ")[0]
        raise UserError(
            f"{run.model} cannot be read ({reason}); register its layers with "
            f"keras.saving.register_keras_serializable, or {remedy}."
        ) from error


def _refuse_other_run(run, model, plan):
    """Raises a UserError if the folder holds a run of a command, or one of other networks."""
    if run.flags.exists() and TRAINED_WITH not in run.read_flags():
        raise UserError(
            f"{run.path} was trained by python -m iwae_tf.main; choose another run directory, or overwrite the run."
        )
    run.check(_settings(model, plan))
    if run.model.exists() and run.has_model():
        try:
            stored = json.loads(run.model.read_bytes())
        except ValueError as error:
            raise UserError(f"{run.model} cannot be read ({first_line(error)}); overwrite the run.") from error
        if _without_names(stored) != _without_names(_description(model)):
            raise UserError(
                f"{run.path} was trained with other networks (see {run.model.name}): use the same networks to continue "
                "it, choose another run directory, or overwrite the run."
            )


def _without_names(description):
    """A configuration without what differs between two models that are built alike."""
    if isinstance(description, dict):
        ignored = ("name", "build_config", "shared_object_id")
        return {key: _without_names(value) for key, value in description.items() if key not in ignored}
    return [_without_names(value) for value in description] if isinstance(description, (list, tuple)) else description


def _plan(settings):
    """The `Plan` of a run, from the texts of its settings."""
    defaults = {field.name: field.default for field in dataclasses.fields(training.Plan)}
    return training.Plan(**{name: type(defaults[name])(text) for name, text in settings.items() if name in defaults})


def _settings(model, plan):
    """Everything that decides what a training run computes, as far as it can be named, name -> text."""
    described = {
        TRAINED_WITH: "iwae_tf.train",
        "objective": " ".join(map(str, (model.objective.name, *model.objective.parameters))),
        "gradient_estimator": model.gradient_estimator,
        "num_samples": model.num_samples,
        "num_resampled": model.num_resampled,
        "beta_warmup_steps": model.beta_warmup_steps,
        "seed": model.seed,
        "latent_dims": ",".join(map(str, model.inference.latent_dims)),
    }
    unrelated = ("picture_every", "checkpoint_minutes", "jit")
    described |= {name: value for name, value in dataclasses.asdict(plan).items() if name not in unrelated}
    return {name: str(value) for name, value in described.items()}


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
    return model.log_likelihood(x, num_samples, seed)
