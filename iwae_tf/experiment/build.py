"""From a run's flags to its model and training plan, and what the commands of the package share.

TensorFlow is imported by the functions that need it, so that `--help` and errors answer at once.
"""

import numpy as np

from iwae_tf import datasets, runs
from iwae_tf.errors import UserError
from iwae_tf.experiment import options


def load(run_dir):
    """Gives back the trained model of a run directory; see `iwae_tf.load`."""
    from iwae_tf import training

    run = runs.RunDirectory(run_dir)
    flags = read_flags(run)
    if not run.has_checkpoints():
        raise UserError(f"{run_dir} has no checkpoint yet; train the model first.")
    built = model(flags, run.read_data()["image_shape"])
    training.prepare(built, plan(flags))
    training.restore(built, run)
    training.use_averages(built)
    return built


def read_flags(run):
    """Returns the flags of a `runs.RunDirectory`, as `options.parse` does.

    Raises:
      UserError: it holds other flags than those that make a run, such as --flagfile, which would read other files; or
        values that they cannot have.
    """
    stored = run.read_flags()
    foreign = sorted(set(stored) - set(options.run_flag_names()))
    if foreign:
        raise UserError(f"{run.flags} is damaged: --{foreign[0]} is no flag of a run.")
    # What a run started from may lie where a new one would by default; nothing is started here.
    origin = stored.pop("init_from", "")
    try:
        flags = options.parse(["load", *(f"--{name}={value}" for name, value in stored.items())])
    except UserError as error:
        raise UserError(f"{run.flags} is damaged: {error}") from error
    flags.init_from = origin
    return flags


def images(flags):
    """Loads and, unless that happens anew each time, binarises the images of these flags.

    Returns:
      `datasets.Images`, and what a run keeps of its data, plain JSON.

    Raises:
      UserError: they cannot be had; see `datasets.load`.
    """
    from iwae_tf.datasets import binarization

    grey = datasets.load(flags.dataset, flags.data_dir, flags.train_split, flags.validation_split, flags.test_split)
    grey = grey.first(flags.max_images) if flags.max_images else grey
    used = "fixed" if grey.is_binary else flags.binarization
    binarized = binarization.binarize_once(grey, flags.binarization)
    if not binarized.train.any():
        raise UserError(f"--binarization={flags.binarization} leaves no ink on the training images; take another.")
    return binarized, {"binarization": used, **grey.describe()}


def model(flags, image_shape, train_mean=None, steps_per_epoch=0):
    """Builds the model of these flags.

    Args:
      flags: as `options.parse` returns them.
      image_shape: (height, width).
      train_mean: `datasets.Images.train_mean`, which sets the decoder's output bias; None where weights are to be
        restored.
      steps_per_epoch: training steps in an epoch, for the warm-up.

    Returns:
      An `ImportanceWeightedAutoencoder` that has its variables.
    """
    import tensorflow as tf

    from iwae_tf import bounds, layers, models, networks

    latent_dims, hidden_dims = options.layer_dims(flags.latent_dims, flags.hidden_dims)
    inference, generative = networks.paper_networks(
        int(np.prod(image_shape)),
        latent_dims,
        hidden_dims,
        inference=flags.inference,
        output_bias=None if train_mean is None else layers.output_bias_from_mean(train_mean),
        seed=flags.seed,
        activation=flags.activation,
        batch_norm=flags.batch_norm,
    )
    built = models.ImportanceWeightedAutoencoder(
        inference,
        generative,
        objective=bounds.objective(flags.objective, *options.objective_parameters(flags)),
        gradient_estimator=flags.gradient_estimator,
        num_samples=options.num_samples(flags),
        num_resampled=flags.resampled,
        beta_warmup_steps=flags.beta_warmup_epochs * steps_per_epoch,
        seed=flags.seed,
    )
    built(tf.zeros([1, generative.event_size]))
    return built


def initial_model(flags):
    """Returns the trained model in --init_from.

    Raises:
      UserError: there is none.
    """
    theirs = read_flags(runs.RunDirectory(flags.init_from)).activation
    if theirs != flags.activation:
        raise UserError(f"The model in --init_from={flags.init_from} has --activation={theirs}; give the same.")
    return load(flags.init_from)


def initialise(built, source, origin):
    """Gives a new model the weights of a trained one.

    Args:
      built: the new model.
      source: the trained model.
      origin: where that comes from.

    Raises:
      UserError: it has other layers.
    """
    if source.generative.event_size != built.generative.event_size:
        raise UserError(
            f"The model in --init_from={origin} is of images of {source.generative.event_size} pixels, and "
            f"these have {built.generative.event_size}; give its data set."
        )
    ours, theirs = ([tuple(weight.shape) for weight in one.variables_of_networks] for one in (built, source))
    if ours != theirs:
        raise UserError(
            f"The model in --init_from={origin} has other layers; give its --latent_dims, --hidden_dims, "
            "--inference and --batch_norm."
        )
    for variable, other in zip(built.variables_of_networks, source.variables_of_networks, strict=True):
        variable.assign(other.numpy())


def plan(flags):
    """Returns the `training.Plan` of these flags."""
    from iwae_tf import training

    return training.Plan(
        schedule=flags.schedule,
        epochs=options.num_epochs(flags),
        first_epochs=flags.first_epochs,
        first_num_samples=options.num_samples(flags, flags.first_k),
        learning_rate=flags.learning_rate,
        batch_size=flags.batch_size,
        adam_epsilon=flags.adam_epsilon,
        ema_momentum=flags.ema_momentum,
        picture_every=flags.picture_every,
        jit=flags.jit and flags.strategy == "default",
        clip_norm=flags.clip_norm,
        checkpoint_minutes=flags.checkpoint_minutes,
    )
