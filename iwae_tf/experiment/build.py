"""From `Options` to images, model and training plan.

TensorFlow is imported by the functions that need it, so that `--help` and errors are immediate.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
from typing import Any

import msgspec
import numpy as np

from iwae_tf import datasets, runs, supports
from iwae_tf.errors import UserError
from iwae_tf.experiment import stored
from iwae_tf.experiment.flags import DEPENDENT_FLAGS, Options
from iwae_tf.runs import released
from iwae_tf.runs.results import describe_data
from iwae_tf.runtime import console


def run_directory(path: str | pathlib.Path) -> runs.RunDirectory:
    """Returns the `runs.RunDirectory` of a folder, which knows the values of flags that older runs do not have."""
    return runs.RunDirectory(path, before=stored.flags_before())


def run_to_extend(path: str) -> runs.RunDirectory:
    """Returns the `runs.RunDirectory` of a folder to which a command adds what it measures.

    Raises:
      UserError: it is no folder, but the name of a released model.
    """
    if released.is_name(path):
        raise UserError(
            f"{path} is a released model, and results are written to the run: copy {released.folder() / path} to a "
            "folder of your own, and give the copy."
        )
    return run_directory(path)


def trained_run(path_or_name: str | pathlib.Path) -> runs.RunDirectory:
    """Returns the `runs.RunDirectory` of a trained model: a folder, or the name of a released model.

    Raises:
      UserError: there is no such model, or it is not trained yet.
    """
    run = run_directory(released.find(path_or_name))
    run.read_flags()  # Refuses what is no run.
    if not run.has_model():
        if run.results.exists():
            raise UserError(
                f"{path_or_name} has results, but no weights: {run.weights.name} is missing; copy it again."
            )
        raise UserError(f"{path_or_name} has no checkpoint yet; train the model first.")
    return run


def load(run: runs.RunDirectory):
    """Returns the trained model of a `trained_run`; see `iwae_tf.load`."""
    from iwae_tf import training

    options = stored.read_options(run)
    model = build_model(options, run.read_data().event_shape)
    training.prepare(model, build_plan(options))
    training.restore(model, run)
    with contextlib.suppress(UserError):  # Damaged results are no reason to refuse the weights.
        results = run.read_results()
        if results and results.training.steps not in (model.num_steps, msgspec.UNSET):
            console.warn(
                f"the weights in {run.path} are of step {model.num_steps:,}, but its results are of step "
                f"{results.training.steps:,}: a checkpoint is missing"
            )
    training.use_averages(model)
    return model


def load_images(options: Options) -> tuple[datasets.Dataset, runs.DataDescription]:
    """Loads the images and, unless that is done each time one is used, binarises them.

    Returns:
      `datasets.Dataset`, and their description, which a run keeps.

    Raises:
      UserError: they cannot be loaded; see `datasets.load`.
    """
    from iwae_tf.datasets import binarization

    splits = options.train_split, options.validation_split, options.test_split
    support = options.support
    reading = ("validation_fraction", "test_fraction", "split_seed", "drop_columns")
    arguments = {name: getattr(options, name) for name in reading}
    images = datasets.load(options.dataset, options.data_dir, *splits, support=support, **arguments)
    images = images.first(options.max_images) if options.max_images else images
    if options.mask_input and not images.is_table:
        raise UserError("--mask_input has no effect for images, which have no missing values; leave it out.")
    if not support.is_binary:
        return images, describe_data("none", images.describe())
    binarized = binarization.binarize_once(images, options.binarization)
    if not binarized.train.any():
        raise UserError(f"--binarization={options.binarization} makes all training images black; use another.")
    used = "fixed" if images.is_binary else options.binarization
    return binarized, describe_data(used, images.describe())


def load_images_of(run: runs.RunDirectory, data_dir: str) -> datasets.Dataset:
    """Returns the images that a run was trained on, as `load_images` does.

    Args:
      run: the run directory.
      data_dir: the folder of the data if it has moved, or "".

    Raises:
      UserError: they cannot be loaded, or are other images.
    """
    options = stored.read_options(run)
    images, data = load_images(dataclasses.replace(options, data_dir=data_dir or options.data_dir))
    run.check_data(data)
    return images


def build_model(options: Options, event_shape, dataset: datasets.Dataset | None = None, steps_per_epoch: int = 0):
    """Builds the model.

    Args:
      options: the `Options`.
      event_shape: (height, width), (height, width, 3) or (number of columns,).
      dataset: the data, whose moments set the initial output of the generative network; None if weights will be
        restored.
      steps_per_epoch: training steps per epoch, for the warm-up.

    Returns:
      An `ImportanceWeightedAutoencoder` that has its variables.
    """
    from iwae_tf import bounds, models, networks

    inference, generative = networks.paper_networks(
        math.prod(event_shape),
        options.latent_dims,
        options.hidden_dims,
        inference=options.inference,
        seed=options.seed,
        likelihood=_likelihood(options, event_shape, dataset),
        input_layer=_input_layer(options, event_shape, dataset),
        activation=options.activation,
        batch_norm=options.batch_norm,
        dtype=options.dtype_policy,  # Whatever Keras' configuration says.
    )
    model = models.ImportanceWeightedAutoencoder(
        inference,
        generative,
        objective=bounds.objective(options.objective, *options.objective_parameters),
        gradient_estimator=options.gradient_estimator,
        num_samples=options.total_samples,
        num_resampled=options.resampled,
        beta_warmup_steps=options.beta_warmup_epochs * steps_per_epoch,
        seed=options.seed,
        dtype=options.dtype_policy,
    )
    model.build((None, generative.event_size))
    return model


def likelihood_of(options: Options, run: runs.RunDirectory):
    """Returns a function that builds the likelihood of a run, with dense heads and the moments that it is given."""
    dense = dataclasses.replace(options, network="mlp")
    return _likelihood(dense, run.read_data().event_shape, None)


def _likelihood(options, event_shape, dataset):
    """A function that builds p(x | z_1)."""
    from iwae_tf import layers

    arguments: dict[str, Any] = {}
    if len(event_shape) == 1:
        arguments["missing_values"] = True  # Of new data, even if the training data are complete.
    if dataset is not None:
        arguments["moments"] = layers.Moments(*dataset.moments(options.support))
    if options.network == "conv":
        arguments["upsampling"] = layers.TransposedConvolutions(**_convolution_arguments(options, event_shape, 1))
    flags = {"likelihood_scale": "scale", "num_levels": "num_levels", "standardize": "standardize"}
    for name, owner, values in DEPENDENT_FLAGS:
        if owner == "likelihood" and options.likelihood in values and name in flags:
            arguments[flags[name]] = getattr(options, name)
    return functools.partial(layers.LIKELIHOODS[options.likelihood], **arguments)


def _convolution_arguments(options, image_shape, number):
    """The arguments of both directions of convolutions; `number` tells their seeds apart.

    Raises:
      UserError: the images are too small.
    """
    from iwae_tf import layers

    reason = layers.check_channels(image_shape, options.channels, options.strides)
    if reason:
        raise UserError(
            f"--network=conv does not fit: {reason}; change --channels and --strides, or use --network=mlp."
        )
    seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    shared = {"image_shape": image_shape, "channels": options.channels, "strides": options.strides}
    return {**shared, "activation": options.activation, "seed": seed, "dtype": options.dtype_policy}


def _input_layer(options, event_shape, dataset):
    """What x passes through before the hidden layers of the inference network, or None."""
    from iwae_tf import layers

    preprocessing = _preprocessing(options, event_shape, dataset)
    if options.network == "mlp":
        return preprocessing
    arguments = _convolution_arguments(options, event_shape, 0)
    return layers.Convolutions(**arguments, preprocessing=preprocessing)


def _preprocessing(options, event_shape, dataset):
    """What the inference network does with x first, or None."""
    from iwae_tf import layers

    event, support = math.prod(event_shape), options.support
    is_table = len(event_shape) == 1
    shift, scale = np.zeros(event), np.ones(event)  # Of zeros and ones, and of values in [0, 1].
    is_standardized = support == supports.COUNTS or (support == supports.REAL and options.standardize)
    if is_standardized and dataset is not None:
        moments = layers.Moments(*dataset.moments(support, np.log1p if support == supports.COUNTS else None))
        shift, scale = moments.mean, moments.stddev
    elif options.likelihood == "discretized_logistic":
        shift, scale = (np.full(event, 0.5 * support.high) for _ in range(2))
    elif not is_standardized and not is_table:
        return None
    return layers.Preprocessing(
        shift,
        scale,
        logarithm=support == supports.COUNTS,
        missing_values=is_table,
        mask_input=options.mask_input,
    )


def build_plan(options: Options):
    """Returns the `training.Plan`."""
    from iwae_tf import training

    return training.Plan(
        schedule=options.schedule,
        epochs=options.num_epochs,
        first_epochs=options.first_epochs,
        first_num_samples=options.first_total_samples,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        adam_epsilon=options.adam_epsilon,
        ema_momentum=options.ema_momentum,
        picture_every=options.picture_every,
        jit=options.jit and options.strategy == "default",
        clip_norm=options.clip_norm,
        checkpoint_minutes=options.checkpoint_minutes,
    )


def initial_model(options: Options, columns: tuple[str, ...] = ()):
    """Returns the trained model in --init_from; a model of a table keeps the standardisation of its data.

    Args:
      options: the `Options`.
      columns: the names of the columns of a table.

    Raises:
      UserError: there is no such model.
    """
    run = trained_run(options.init_from)
    before = stored.read_options(run)
    for name in ("activation", "likelihood", "likelihood_scale", "num_levels", "standardize", "network", "mask_input"):
        if getattr(before, name) != getattr(options, name):
            raise UserError(
                f"The model in --init_from={options.init_from} has --{name}={getattr(before, name)}; use the same one."
            )
    if run.read_data().column_names != columns:
        raise UserError(f"The model in --init_from={options.init_from} has other columns; use a table with the same.")
    return load(run)


def initialise(model, source, origin: str) -> None:
    """Gives a new model the weights of a trained one.

    Args:
      model: the new model.
      source: the trained model.
      origin: the value of --init_from, for messages.

    Raises:
      UserError: it has other layers.
    """
    if source.generative.event_size != model.generative.event_size:
        raise UserError(
            f"The model in --init_from={origin} was trained on images of {source.generative.event_size} pixels, but "
            f"these have {model.generative.event_size}; use its data set."
        )
    shapes, source_shapes = (
        [tuple(variable.shape) for variable in owner.variables_of_networks] for owner in (model, source)
    )
    if shapes != source_shapes:
        raise UserError(
            f"The model in --init_from={origin} has other layers; use its --latent_dims, --hidden_dims, --inference "
            "and --batch_norm."
        )
    for variable, trained in zip(model.variables_of_networks, source.variables_of_networks, strict=True):
        variable.assign(trained.numpy())
