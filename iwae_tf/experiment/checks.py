"""Refuses flags that contradict each other, or that would have no effect."""

import pathlib
from collections.abc import Set
from typing import Any

from iwae_tf import compatibility, datasets
from iwae_tf.errors import UserError
from iwae_tf.experiment.flags import DEPENDENT_FLAGS, Options

# Flags that have an effect only for some data sets.
DATA_SET_FLAGS = (
    "data_dir",
    "train_split",
    "validation_split",
    "test_split",
    "test_fraction",
    "validation_fraction",
    "split_seed",
    "drop_columns",
)


def refuse_contradictions(options: Options, given: Set[str] = frozenset()) -> None:
    """Checks all flags together.

    Args:
      options: the `Options`, with all defaults filled in.
      given: the names of the flags that were given explicitly.

    Raises:
      UserError: some contradict each other, or one was given that would have no effect.
    """
    _check_layers(options)
    _check_effects(options, given)
    _check_data_set_flags(options)
    _check_training(options)
    _check_first_epochs(options, given)
    _check_strategy(options)
    reason = reason_against(options)
    if reason:
        raise UserError(reason)
    if options.overwrite and not options.train:
        raise UserError("--overwrite would remove the model that --notrain needs; give only one of them.")
    if options.init_from and pathlib.Path(options.init_from).resolve() == pathlib.Path(options.run_dir).resolve():
        raise UserError(f"--init_from={options.init_from} is the run directory itself; give another --run_dir.")


def _check_layers(options: Options) -> None:
    layers, groups = len(options.latent_dims), len(options.hidden_dims)
    if groups != layers:
        raise UserError(
            f"--latent_dims has {layers} stochastic layer{'s'[: layers > 1]}, but --hidden_dims has "
            f"{groups} group{'s'[: groups > 1]} of hidden layers; give one group per stochastic layer, separated by "
            "semicolons."
        )

    if options.network == "conv" and not options.hidden_dims[0]:
        raise UserError("--network=conv needs a hidden layer between the convolutions and z_1; give --hidden_dims.")
    if options.network == "conv" and options.batch_norm:
        raise UserError("--batch_norm normalises fully connected layers only; leave it out with --network=conv.")


def _check_effects(options: Options, given: Set[str]) -> None:
    unused = {"cosine": "stages", "paper": "epochs"}[options.schedule]
    if unused in given:
        raise UserError(f"--{unused} has no effect with --schedule={options.schedule}; leave it out.")
    for name, owner, values in DEPENDENT_FLAGS:
        if getattr(options, owner) not in values and name in given:
            raise UserError(
                f"--{name} has no effect with --{owner}={getattr(options, owner)}; leave it out, or give --{owner}="
                f"{' or '.join(values)}."
            )


def _check_data_set_flags(options: Options) -> None:
    entry, _ = datasets.find(options.dataset)
    for name in DATA_SET_FLAGS:
        if getattr(options, name) and name not in entry.takes:
            raise UserError(f"--{name} has no effect with --dataset={options.dataset}; leave it out.")
    if options.likelihood != "bernoulli":
        if options.binarization_seeds > 1:
            raise UserError(
                f"--binarization_seeds={options.binarization_seeds} has no effect with --likelihood="
                f"{options.likelihood}, which does not binarise; leave it out."
            )
        return
    if entry.binarization == "fixed" and options.binarization != "fixed":
        raise UserError(
            f"--binarization={options.binarization} has no effect with --dataset={options.dataset}, which is binary; "
            "leave it out."
        )
    if options.binarization != "stochastic" and options.binarization_seeds > 1:
        raise UserError(
            f"--binarization_seeds={options.binarization_seeds} has no effect with --binarization="
            f"{options.binarization}, which has only one binarisation of the test images; leave it out."
        )


def _check_training(options: Options) -> None:
    if options.schedule == "cosine" and options.beta_warmup_epochs > options.epochs:
        raise UserError(
            f"--beta_warmup_epochs={options.beta_warmup_epochs} is more than --epochs={options.epochs}; give fewer."
        )
    if options.gradient_estimator == "resampled" and options.resampled > options.total_samples:
        raise UserError(
            f"--resampled={options.resampled} is more than the {options.total_samples} samples that are drawn; give a "
            "smaller number."
        )
    if options.batch_norm and options.batch_size == 1:
        raise UserError(
            "--batch_norm normalises over the images of a batch, but --batch_size=1 has only one; give at least 2."
        )
    if options.batch_norm and options.ema_momentum:
        raise UserError(
            f"--ema_momentum={options.ema_momentum} would average the weights, but not the statistics of --batch_norm, "
            "which belong to the last weights; leave it out."
        )


def _check_first_epochs(options: Options, given: Set[str]) -> None:
    if not options.first_epochs:
        if options.first_k != 1:
            raise UserError(f"--first_k={options.first_k} has no effect without --first_epochs; give both.")
        return
    if options.schedule != "cosine":
        raise UserError(f"--first_epochs has no effect with --schedule={options.schedule}; leave it out.")
    if options.first_epochs > options.epochs:
        raise UserError(f"--first_epochs={options.first_epochs} is more than --epochs={options.epochs}; give fewer.")
    first = options.first_total_samples
    reason = reason_against(options, num_samples=first, num_resampled=min(first, options.resampled))
    if reason:
        raise UserError(f"--first_k={options.first_k} is not compatible with the other flags: {reason}")


def _check_strategy(options: Options) -> None:
    for name in ("batch_norm", "clip_norm"):
        if options.strategy != "default" and getattr(options, name):
            raise UserError(
                f"Under --strategy={options.strategy} each replica would apply --{name} separately, which gives "
                "different results; leave one of them out."
            )


def reason_against(options: Options, **changes: Any) -> str | None:
    """`compatibility.reason_against` for these options; `changes` are arguments with another value."""
    arguments: dict[str, Any] = {
        "objective": options.objective,
        "estimator": options.gradient_estimator,
        "parameters": options.objective_parameters,
        "num_samples": options.total_samples,
        "num_resampled": options.resampled,
        "shares_weights": options.inference == "ladder" and len(options.latent_dims) > 1,
        "batch_norm": options.batch_norm,
        "beta_warmup": options.beta_warmup_epochs > 0,
    }
    return compatibility.reason_against(**arguments | changes)
