"""From a run's flags to its model and training plan, and what the commands of the package share.

TensorFlow is imported by the functions that need it, so that `--help` and errors answer at once.
"""

import errno
import json
import os
import re
import signal
import sys
import tempfile
import zlib

import numpy as np

from iwae_tf import datasets, interruption, options, runs
from iwae_tf.errors import UserError, first_line

# What a user can mend where something is written, and how.
_DISK_ERRORS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room") | dict.fromkeys(
    (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO), "see to it that it can be written"
)


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
    from iwae_tf import binarization

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


def strategy(flags):
    """Returns the `tf.distribute.Strategy` of --strategy; with several workers it waits for all of them.

    Raises:
      UserError: TF_CONFIG does not say who the workers are, they do not come together, or the batch cannot be split
        evenly.
    """
    import tensorflow as tf

    if flags.strategy == "default":
        return tf.distribute.get_strategy()
    made = tf.distribute.MirroredStrategy() if flags.strategy == "mirrored" else _multi_worker_strategy()
    if flags.batch_size % made.num_replicas_in_sync:
        raise UserError(
            f"--batch_size={flags.batch_size} cannot be split evenly over {made.num_replicas_in_sync} replicas; give a "
            "multiple."
        )
    return made


def _multi_worker_strategy():
    import tensorflow as tf

    workers = _read_cluster(os.environ.get("TF_CONFIG", ""))
    print(f"waiting for all of {', '.join(workers)}", flush=True)
    # It waits within TensorFlow, where no handler of Python's would run: Ctrl-C has to end the process by itself.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"The workers of TF_CONFIG did not come together ({first_line(error)}).") from error
    finally:
        signal.signal(signal.SIGINT, handler)


def _read_cluster(text):
    """The workers' addresses that TF_CONFIG names; raises a UserError where it is not what it has to be."""
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        if set(cluster) != {"worker"} or task["type"] != "worker":
            raise ValueError("tasks are of type worker only, the first of which is the chief")
        workers = cluster["worker"]
        if not isinstance(workers, list) or not all(re.fullmatch(r"[^:]+:\d{1,5}", worker) for worker in workers):
            raise ValueError("the workers are no list of host:port")
        if len(set(workers)) < len(workers):
            raise ValueError("a worker is named twice")
        if type(task["index"]) is not int or not 0 <= task["index"] < len(workers):
            raise ValueError("the index is none of the workers'")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(
            f"--strategy=multi_worker needs the environment variable TF_CONFIG, such as {example}; "
            f"it is {text[:200]!r} ({error!r})."
        ) from error
    return workers


def refuse_differences(flags, data, workers):
    """Raises a UserError if the workers of one training were not given the same."""
    given = json.dumps([options.result_flags(flags), data], sort_keys=True)
    if not workers.agree(zlib.crc32(given.encode())):
        raise UserError("The workers have different flags or images: give all of them the same.")


def import_tensorflow_quietly():
    """Imports TensorFlow without its start-up messages, which would bury what the program prints.

    Some of them come before any setting is read, so standard error is set aside; it is shown if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as set_aside:
        standard_error = os.dup(2)
        os.dup2(set_aside.fileno(), 2)
        try:
            import tensorflow as tf
            import tensorflow_probability  # noqa: F401
        except BaseException:
            set_aside.seek(0)
            os.write(standard_error, set_aside.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
    tf.get_logger().setLevel("ERROR")


def run_command(main, interrupted):
    """Runs a command: errors that a user can mend are one line and exit status 1.

    Args:
      main: a function of the command line.
      interrupted: what to say after a signal, which gives the exit status 128 and its number.
    """
    try:
        main(sys.argv)
    except UserError as error:
        sys.exit(f"iwae_tf: {error}")
    except interruption.Interrupted as error:
        print(f"iwae_tf: ended by {error}; what was done is saved, {interrupted}", file=sys.stderr)
        sys.exit(128 + error.number)
    except KeyboardInterrupt:
        print(f"\niwae_tf: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        # A full disk can be met wherever something is written.
        if error.errno not in _DISK_ERRORS:
            raise
        name = f" {error.filename}" if error.filename else ""
        sys.exit(f"iwae_tf: Cannot write{name} ({error.strerror}); {_DISK_ERRORS[error.errno]}, and {interrupted}")
    except Exception as error:
        reason = _reason_of_tensorflow(error)
        if not reason:
            raise
        sys.exit(f"iwae_tf: {reason}, and {interrupted}")


def _reason_of_tensorflow(error):
    """What a user can mend behind an error of TensorFlow; "" for any other error."""
    if "tensorflow" not in sys.modules:
        return ""
    import tensorflow as tf

    if not isinstance(error, tf.errors.OpError):
        return ""
    for number, advice in _DISK_ERRORS.items():
        if os.strerror(number) in str(error):
            return f"Cannot write ({first_line(error)}); {advice}"
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    # Without other workers there is nobody to lose.
    if not isinstance(error, lost) or "TF_CONFIG" not in os.environ:
        return ""
    return f"Another worker was lost ({type(error).__name__}); start all workers again"
