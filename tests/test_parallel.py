import itertools
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf.runtime import machine, parallel


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(machine, "num_cores", lambda: 2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_results_are_in_order(count):
    assert list(parallel.results(lambda i: i * i, range(count))) == [i * i for i in range(count)]


def _threads():
    return set(parallel.results(lambda _: time.sleep(0.001) or threading.current_thread(), range(20)))


def test_calls_run_side_by_side():
    barrier = threading.Barrier(2, timeout=60)
    assert sorted(parallel.results(lambda _: barrier.wait(), range(2))) == [0, 1]
    assert len(_threads()) == 2


def test_calls_stay_in_the_thread_whose_settings_they_depend_on(monkeypatch):
    """The device, the strategy and numeric checks are those of a thread."""
    own = {threading.current_thread()}
    with monkeypatch.context() as patch:
        patch.setattr(machine, "has_gpu", lambda: True)
        assert _threads() == own
    with tf.distribute.MirroredStrategy(["/CPU:0"]).scope():
        assert _threads() == own
    tf.config.run_functions_eagerly(True)
    try:
        assert _threads() == own
    finally:
        tf.config.run_functions_eagerly(False)
    assert own.isdisjoint(_threads())


def test_the_user_limits_the_calls(monkeypatch):
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 1)
    assert _threads() == {threading.current_thread()}


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
