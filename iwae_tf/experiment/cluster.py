"""The `tf.distribute` strategy of --strategy, and what its workers must agree on."""

import json
import os
import re
import signal
import zlib

from iwae_tf.errors import UserError, first_line
from iwae_tf.experiment import options


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
