"""The `tf.distribute` strategy of --strategy, and what all its workers have to agree on."""

import json
import os
import re
import signal
import zlib

import msgspec

from iwae_tf.errors import UserError, first_line
from iwae_tf.experiment import stored
from iwae_tf.experiment.flags import Options
from iwae_tf.runtime import console


def strategy(options: Options):
    """Returns the `tf.distribute.Strategy`; with several workers it waits until all are there.

    Raises:
      UserError: TF_CONFIG does not list the workers, they cannot connect, or the batch cannot be split evenly.
    """
    import tensorflow as tf

    if options.strategy == "default":
        return tf.distribute.get_strategy()
    result = tf.distribute.MirroredStrategy() if options.strategy == "mirrored" else _multi_worker_strategy()
    if options.batch_size % result.num_replicas_in_sync:
        raise UserError(
            f"--batch_size={options.batch_size} cannot be split evenly over {result.num_replicas_in_sync} replicas; "
            "use a multiple."
        )
    return result


def _multi_worker_strategy():
    import tensorflow as tf

    workers = _read_cluster(os.environ.get("TF_CONFIG", ""))
    console.note(f"waiting for all of {', '.join(workers)}")
    # TensorFlow waits in C++, where Python's handler would not run: Ctrl-C has to end the process by itself.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"The workers of TF_CONFIG could not connect ({first_line(error)}).") from error
    finally:
        signal.signal(signal.SIGINT, handler)


def _read_cluster(text):
    """The addresses of the workers in TF_CONFIG; raises a UserError if it is not valid."""
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        if set(cluster) != {"worker"} or task["type"] != "worker":
            raise ValueError("only tasks of type worker are supported; the first is the chief")
        workers = cluster["worker"]
        if not isinstance(workers, list) or not all(re.fullmatch(r"[^:]+:\d{1,5}", worker) for worker in workers):
            raise ValueError("the workers are not a list of host:port")
        if len(set(workers)) < len(workers):
            raise ValueError("a worker is listed twice")
        if type(task["index"]) is not int or not 0 <= task["index"] < len(workers):
            raise ValueError("the index is not that of a worker")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(
            f"--strategy=multi_worker needs the environment variable TF_CONFIG, such as {example}; "
            f"it is {text[:200]!r} ({error!r})."
        ) from error
    return workers


def refuse_differences(options: Options, data, workers) -> None:
    """Raises a UserError if the workers of one training run have different flags or images."""
    given = json.dumps([stored.result_flags(options), msgspec.to_builtins(data)], sort_keys=True)
    if not workers.agree(zlib.crc32(given.encode("utf-8", "surrogateescape"))):
        raise UserError("The workers have different flags or images: start all of them with the same.")
