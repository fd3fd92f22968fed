"""Communication between workers: alone, and between two processes."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import iwae_tf
from iwae_tf.runtime import distribute

# What each of two workers executes.
TWO_WORKERS = """
import numpy as np
import tensorflow as tf
from iwae_tf.runtime import distribute

strategy = tf.distribute.MultiWorkerMirroredStrategy()
workers = distribute.Workers(strategy)
i = workers.index
assert (workers.count, workers.is_chief) == (2, i == 0)
np.testing.assert_array_equal(workers.sums(np.arange(3.0) + i), [1.0, 3.0, 5.0])

# The types and shapes differ, and one array is empty.
arrays = {
    "step": np.int64(2**40 + i),
    "moments": [np.full([2, 3], 0.5 + i, np.float32), np.full([4], 10.0 * i, np.float32), np.zeros([0, 5])],
    "pair": (np.arange(2, dtype=np.int64) * i, np.array([[0.25]]) * i),
}
sums = workers.sums(arrays)
assert list(sums) == list(arrays) and type(sums["pair"]) is tuple
assert (sums["step"], sums["step"].dtype) == (2**41 + 1, np.int64)
np.testing.assert_array_equal(sums["moments"][0], np.full([2, 3], 2.0))
np.testing.assert_array_equal(sums["moments"][1], np.full([4], 10.0))
assert [array.dtype for array in sums["moments"]] == [np.float32, np.float32, np.float64]
assert sums["moments"][2].shape == (0, 5)
np.testing.assert_array_equal(sums["pair"][0], [0, 1])
np.testing.assert_array_equal(sums["pair"][1], [[0.25]])

received = workers.from_chief({"a": np.full(3, 7.5 - i), "b": np.int32(4 + i)})
np.testing.assert_array_equal(received["a"], [7.5, 7.5, 7.5])
assert received["b"] == 4
np.testing.assert_array_equal(workers.from_chief(np.full([2], 3 + i)), [3, 3])
assert workers.agree(5) and not workers.agree(5 + i)
assert workers.any(15 * i) == 15
"""


@pytest.fixture
def alone():
    return distribute.Workers(tf.distribute.get_strategy())


def test_without_a_strategy_there_is_one_worker_and_one_replica(alone):
    assert (alone.count, alone.index, alone.is_chief) == (1, 0, True)
    assert distribute.num_replicas() == 1
    values = tf.range(6)
    assert distribute.replica_share(values, axis=0) is values


def test_a_single_worker_keeps_its_arrays(alone):
    array = np.arange(6.0).reshape(2, 3)
    for method in (alone.sums, alone.from_chief):
        result = method(array)
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, array)
    np.testing.assert_array_equal(alone.sums(tf.constant([1, 2])), [1, 2])
    assert alone.agree(3)
    assert alone.any(2) == 2


def test_a_single_worker_keeps_structures_of_arrays(alone):
    arrays = {"b": np.arange(3), "a": [np.float32(2.5), (np.zeros([0, 4]), tf.constant([1.0]))]}
    for method in (alone.sums, alone.from_chief):
        result = method(arrays)
        assert list(result) == ["b", "a"]
        assert isinstance(result["a"][1], tuple)
        np.testing.assert_array_equal(result["b"], [0, 1, 2])
        assert (result["a"][0], result["a"][0].dtype) == (2.5, np.float32)
        assert result["a"][1][0].shape == (0, 4)
        assert isinstance(result["a"][1][1], np.ndarray)


@pytest.mark.slow
def test_two_workers_add_arrays_and_structures_of_arrays():
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    processes = []
    try:
        for index in range(2):
            processes.append(_start(addresses, index))
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()


def _start(addresses, index):
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
    environment["PYTHONPATH"] = str(pathlib.Path(iwae_tf.__file__).parent.parent)
    command = [sys.executable, "-c", TWO_WORKERS]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
