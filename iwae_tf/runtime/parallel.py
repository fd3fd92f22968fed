"""Runs compiled calls side by side."""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from typing import Any

from iwae_tf.runtime import machine


def results(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Generator[Any, None, None]:
    """Yields function(argument) for each argument, in their order.

    On a CPU, as many calls run at once as there are cores. TensorFlow shares each product among the cores, too, but a
    core that is done with its part waits for the others. Calls side by side keep it busy.

    Args:
      function: spends its time in compiled calls, during which other threads can run. The first call is made in the
        calling thread, so that what it compiles does not depend on settings that other threads lack.
      arguments: an argument for each call.
    """
    arguments = iter(arguments)
    for argument in arguments:
        yield function(argument)
        break
    count = 1 if machine.has_gpu() else machine.num_cores()
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
