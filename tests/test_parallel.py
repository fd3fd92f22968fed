import itertools
import threading
import time

import numpy as np
import pytest

from iwae_tf.runtime import machine, parallel


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(machine, "num_cores", lambda: 2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_results_are_in_order(count):
    assert list(parallel.results(lambda i: i * i, range(count))) == [i * i for i in range(count)]


def test_calls_run_side_by_side_after_the_first():
    barrier = threading.Barrier(2, timeout=60)
    threads = {}

    def call(i):
        threads[i] = threading.current_thread()
        return barrier.wait() if i else None

    list(parallel.results(call, range(5)))
    assert threads[0] is threading.main_thread()
    assert threading.main_thread() not in [threads[i] for i in range(1, 5)]


def test_on_a_gpu_one_call_follows_the_other(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    alone = threading.Lock()

    def call(_):
        assert alone.acquire(blocking=False)
        time.sleep(0.001)
        alone.release()

    list(parallel.results(call, range(20)))


def test_an_error_ends_it():
    called = []

    def call(i):
        called.append(i)
        if i == 3:
            raise ArithmeticError(f"call {i}")

    with pytest.raises(ArithmeticError, match="call 3"):
        list(parallel.results(call, itertools.count()))
    assert max(called) <= 6


def test_nothing_runs_after_closing():
    others = set(threading.enumerate())
    called = []
    measured = parallel.results(called.append, itertools.count())
    next(measured), next(measured)
    assert set(threading.enumerate()) > others
    measured.close()
    assert set(threading.enumerate()) <= others
    assert len(called) < 10
    with pytest.raises(StopIteration):
        next(measured)


def test_a_generator_of_arguments_is_read_as_calls_begin():
    """So that not all arguments have to be in memory at once."""
    read = []

    def arguments():
        for i in range(100):
            read.append(i)
            yield np.zeros(3)

    measured = parallel.results(np.sum, arguments())
    next(measured), next(measured)
    assert len(read) <= 5
    measured.close()
