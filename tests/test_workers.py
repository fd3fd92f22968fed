"""Several replicas: in one process, and in worker processes on this machine."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import iwae_tf
from iwae_tf import main, runs
from iwae_tf.errors import UserError
from iwae_tf.experiment import cluster, parsing
from iwae_tf.runtime import files

FLAGS = ["--k=3", "--epochs=3", "--max_images=120", "--batch_size=20", "--latent_dims=4,2", "--nll_samples=20"]
FLAGS += ["--hidden_dims=20;10", "--noexport", "--picture_every=3", "--gradient_estimator=resampled", "--resampled=2"]
# Two halves of a batch are summed in a different order than the whole batch. The rounding errors of 2^-24 per sum grow
# about a hundredfold in 18 steps; different noise would change the bounds by whole nats.
ROUNDING = 1e-5


def _start(run_dir, *words, config):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(iwae_tf.__file__).parent.parent)}
    environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, "-m", "iwae_tf.main", *FLAGS, *words, f"--run_dir={run_dir}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _start_workers(run_dir, *words, second_words=()):
    """Starts two workers; the second has a different run directory, as on another machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    return [
        _start(folder, *words, *more, "--strategy=multi_worker", config=_config(addresses, index))
        for index, (folder, more) in enumerate(((run_dir, ()), (f"{run_dir}_elsewhere", second_words)))
    ]


def _config(addresses, index, kind="worker"):
    return {"cluster": {kind: addresses}, "task": {"type": kind, "index": index}}


def _finish(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
    return [notes for _, notes in outputs]


def _assert_same(run_dir, other_dir):
    """Compares the learning curves and the log-likelihoods of two runs, up to rounding errors."""
    _assert_same_history(run_dir, other_dir)
    run, other = runs.RunDirectory(run_dir), runs.RunDirectory(other_dir)
    values, expected = (files.read_arrays(each.test_log_likelihoods)["log_likelihood"] for each in (run, other))
    np.testing.assert_allclose(values, expected, rtol=10 * ROUNDING)


def _assert_same_history(run_dir, other_dir):
    rows, expected = (runs.RunDirectory(folder).read_history() for folder in (run_dir, other_dir))
    for row, other in zip(rows, expected, strict=True):
        assert {**row, "seconds": 0.0} == pytest.approx({**other, "seconds": 0.0}, rel=ROUNDING)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run directory of a single process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    main.main(["main", *FLAGS, "--nojit", f"--run_dir={folder}"])
    return folder


@pytest.mark.slow
def test_two_workers_give_the_results_of_one_process(alone, tmp_path):
    chief, worker = _finish(*_start_workers(tmp_path / "run"))
    assert "2 workers, without XLA" in chief
    assert "worker 2 of 2" in worker
    assert not (tmp_path / "run_elsewhere").exists()
    _assert_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_workers_with_different_flags_are_refused(tmp_path):
    for worker in _start_workers(tmp_path / "run", second_words=["--seed=7"]):
        _, err = worker.communicate(timeout=300)
        assert worker.returncode == 1
        waiting, error = err.splitlines()
        assert waiting.startswith("waiting for all of 127.0.0.1:")
        assert error == "iwae_tf: The workers have different flags or images: start all of them with the same."
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_workers_can_start_from_a_trained_model(alone, tmp_path):
    words = ["--init_from", str(alone), "--epochs=1", "--noevaluate"]
    main.main(["main", *FLAGS, *words, "--nojit", f"--run_dir={tmp_path / 'alone'}"])
    _finish(*_start_workers(tmp_path / "run", *words))
    _assert_same_history(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
def test_a_worker_that_waits_for_the_others_can_be_interrupted(tmp_path):
    first, second = _start_workers(tmp_path / "run")
    second.kill()
    assert first.stderr.readline().startswith("waiting for all of 127.0.0.1:")
    time.sleep(8.0)  # It is waiting inside TensorFlow by then.
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGINT
    second.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lost_worker_is_reported_and_the_run_can_be_continued(alone, tmp_path, number):
    chief, worker = _start_workers(tmp_path / "run")
    for line in worker.stderr:
        if line.startswith("epoch 2/3"):  # The chief has saved the first epoch by then.
            worker.send_signal(number)
    _, err = chief.communicate(timeout=300)
    worker.communicate(timeout=300)
    if number == signal.SIGKILL:
        assert chief.returncode == 1
        assert err.splitlines()[-1].startswith("iwae_tf: Another worker was lost")
    else:
        # All workers stop at the same step.
        assert (chief.returncode, worker.returncode) == (128 + number, 128 + number), err
    chief, _ = _finish(*_start_workers(tmp_path / "run"))
    assert "training epochs 1" not in chief
    _assert_same(tmp_path / "run", alone)


MIRRORED = """
import sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from iwae_tf import runs, training
from iwae_tf.experiment import build, parsing, stored
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
options = parsing.parse(["main", *sys.argv[1:]])
images, data = build.load_images(options)
with strategy.scope():
    model = build.build_model(options, images.event_shape, images)
run = runs.RunDirectory(options.run_dir)
run.claim(stored.run_flags(options), data=data)
training.train(model, images, build.build_plan(options), run)
"""


@pytest.mark.slow
def test_two_replicas_in_one_process_train_like_one(alone, tmp_path):
    words = [*FLAGS, "--strategy=mirrored", f"--run_dir={tmp_path / 'run'}"]
    subprocess.run([sys.executable, "-c", MIRRORED, *words], check=True, capture_output=True, timeout=300)
    _assert_same_history(tmp_path / "run", alone)


@pytest.mark.slow
def test_the_mirrored_strategy_without_gpus_has_one_replica(alone, tmp_path):
    main.main(["main", *FLAGS, "--strategy=mirrored", f"--run_dir={tmp_path / 'run'}"])
    _assert_same(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "needs the environment variable TF_CONFIG, such as"),
        ("{", "needs the environment variable TF_CONFIG"),
        ("[" * 100_000, "RecursionError"),
        (_config(["localhost:1"], 1), "index is not that of a worker"),
        (_config(["localhost:1"], False), "index is not that of a worker"),
        (_config(["localhost"], 0), "not a list of host:port"),
        (_config(["24003"], 0), "not a list of host:port"),
        (_config(["localhost:1"] * 2, 0), "listed twice"),
        (_config(["localhost:1"], 0, kind="chief"), "only tasks of type worker"),
    ],
)
def test_an_invalid_tf_config_is_refused(config, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UserError, match=message):
        cluster.strategy(parsing.parse(["main", "--strategy=multi_worker"]))


@pytest.mark.parametrize("word", ["--batch_norm", "--clip_norm=1"])
def test_flags_that_each_replica_would_apply_separately_are_refused(word):
    with pytest.raises(UserError, match="Under --strategy=mirrored each replica would apply --.* separately"):
        parsing.parse(["main", "--strategy=mirrored", word])
