"""Runs compiled calls side by side."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from typing import Any

import tensorflow as tf

from iwae_tf.runtime import machine

# With more, an interruption would wait for too many calls, if the process may not use all the cores that it sees.
_MOST_CALLS = 16


def results(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Generator[Any, None, None]:
    """Yields function(argument) for each argument, in their order.

    On a CPU, as many calls run at once as there are cores. TensorFlow shares each product among the cores, too, but a
    core that is done with its part waits for the others. Calls side by side keep it busy, and one more is waiting.

    Args:
      function: spends its time in TensorFlow, during which other threads can run. It may run in another thread, which
        has none of the caller's context variables, such as those of `products`.
      arguments: an argument for each call.

    Raises:
      Exception: that of the first call that failed; the later ones are not started.
    """
    count = _most_calls()
    if count == 1:
        yield from map(function, arguments)
        return
    executor = futures.ThreadPoolExecutor(count)
    pending: collections.deque[futures.Future] = collections.deque()
    try:
        for argument in arguments:
            pending.append(executor.submit(function, argument))
            if len(pending) > count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _most_calls():
    """How many calls may run at once; only one where their results depend on what a thread has set in TensorFlow."""
    if machine.has_gpu() or tf.distribute.has_strategy() or tf.config.functions_run_eagerly():
        return 1
    threads = tf.config.threading.get_intra_op_parallelism_threads() or machine.num_cores()
    return min(threads, machine.num_cores(), _MOST_CALLS)
