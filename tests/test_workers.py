"""More than one replica: in one process, and in worker processes on this machine."""

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
from iwae_tf.experiment import cluster, options
from iwae_tf.runtime import files

FLAGS = ["--k=3", "--epochs=3", "--max_images=120", "--batch_size=20", "--latent_dims=4,2", "--nll_samples=20"]
FLAGS += ["--hidden_dims=20;10", "--noexport", "--picture_every=3", "--gradient_estimator=resampled", "--resampled=2"]
# Two halves of a batch are summed in another order than the whole: a rounding of 2^-24 of each sum, a hundredfold of
# which is left after 18 steps. Other noise moves the bounds by whole nats.
ROUNDING = 1e-5


def _start(run_dir, *words, config):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(iwae_tf.__file__).parent.parent)}
    environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, "-m", "iwae_tf.main", *FLAGS, *words, f"--run_dir={run_dir}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _start_workers(run_dir, *words, of_second=()):
    """Starts two workers; the second has a run directory of its own, as on another machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    cluster = {"worker": addresses}
    return [
        _start(folder, *words, *own, "--strategy=multi_worker", config={"cluster": cluster, "task": _task(index)})
        for index, (folder, own) in enumerate(((run_dir, ()), (f"{run_dir}_elsewhere", of_second)))
    ]


def _task(index):
    return {"type": "worker", "index": index}


def _finish(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in outputs]


def _assert_same(run_dir, other_dir):
    """The same learning curve and the same log-likelihoods, up to roundings."""
    _assert_same_history(run_dir, other_dir)
    run, other = runs.RunDirectory(run_dir), runs.RunDirectory(other_dir)
    ours, theirs = (files.read_arrays(one.test_log_likelihoods)["log_likelihood"] for one in (run, other))
    np.testing.assert_allclose(ours, theirs, rtol=10 * ROUNDING)


def _assert_same_history(run_dir, other_dir):
    rows, expected = (runs.RunDirectory(folder).read_history() for folder in (run_dir, other_dir))
    for row, other in zip(rows, expected, strict=True):
        assert {**row, "seconds": 0.0} == pytest.approx({**other, "seconds": 0.0}, rel=ROUNDING)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run directory of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    main.main(["main", *FLAGS, "--nojit", f"--run_dir={folder}"])
    return folder


def test_two_workers_train_and_evaluate_as_one_process(alone, tmp_path):
    chief, worker = _finish(*_start_workers(tmp_path / "run"))
    assert "2 worker(s); without XLA" in chief
    assert "worker 2 of 2" in worker
    assert not (tmp_path / "run_elsewhere").exists()
    _assert_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_workers_with_other_flags_are_refused(tmp_path):
    for worker in _start_workers(tmp_path / "run", of_second=["--seed=7"]):
        _, err = worker.communicate(timeout=300)
        assert worker.returncode == 1
        assert err == "iwae_tf: The workers have different flags or images: give all of them the same.\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_workers_start_from_a_trained_model(alone, tmp_path):
    words = ["--init_from", str(alone), "--epochs=1", "--noevaluate"]
    main.main(["main", *FLAGS, *words, "--nojit", f"--run_dir={tmp_path / 'alone'}"])
    _finish(*_start_workers(tmp_path / "run", *words))
    _assert_same_history(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
def test_a_worker_that_waits_for_the_others_can_be_ended(tmp_path):
    first, second = _start_workers(tmp_path / "run")
    second.kill()
    assert first.stdout.readline().startswith("waiting for all of 127.0.0.1:")
    time.sleep(8.0)  # By then it waits within TensorFlow.
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGINT
    second.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_lost_is_reported_and_the_run_continues(alone, tmp_path, number):
    chief, worker = _start_workers(tmp_path / "run")
    for line in worker.stdout:
        if line.startswith("epoch 2/3"):  # The chief has saved the first by then.
            worker.send_signal(number)
    _, err = chief.communicate(timeout=300)
    worker.communicate(timeout=300)
    if number == signal.SIGKILL:
        assert chief.returncode == 1
        assert err.startswith("iwae_tf: Another worker was lost")
        assert err.count("\n") == 1
    else:
        # All stop at the same step.
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
from iwae_tf import experiment, options, runs, training
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
flags = options.parse(["main", *sys.argv[1:]])
images, data = experiment.images(flags)
with strategy.scope():
    model = experiment.model(flags, images.image_shape, images.train_mean)
run = runs.RunDirectory(flags.run_dir)
run.claim(options.run_flags(flags), data=data)
training.train(model, images, experiment.plan(flags), run)
"""


@pytest.mark.slow
def test_two_replicas_in_one_process_train_as_one(alone, tmp_path):
    words = [*FLAGS, "--strategy=mirrored", f"--run_dir={tmp_path / 'run'}"]
    subprocess.run([sys.executable, "-c", MIRRORED, *words], check=True, capture_output=True, timeout=300)
    _assert_same_history(tmp_path / "run", alone)


@pytest.mark.slow
def test_mirrored_on_a_machine_without_gpus_is_one_replica(alone, tmp_path):
    main.main(["main", *FLAGS, "--strategy=mirrored", f"--run_dir={tmp_path / 'run'}"])
    _assert_same(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "needs the environment variable TF_CONFIG, such as"),
        ("{", "needs the environment variable TF_CONFIG"),
        ("[" * 100_000, "RecursionError"),
        ({"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 1}}, "index is none"),
        ({"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": False}}, "index is none"),
        ({"cluster": {"worker": ["localhost"]}, "task": {"type": "worker", "index": 0}}, "no list of host:port"),
        ({"cluster": {"worker": ["24003"]}, "task": {"type": "worker", "index": 0}}, "no list of host:port"),
        ({"cluster": {"worker": ["localhost:1"] * 2}, "task": {"type": "worker", "index": 0}}, "named twice"),
        ({"cluster": {"chief": ["localhost:1"]}, "task": {"type": "chief", "index": 0}}, "of type worker only"),
    ],
)
def test_without_a_cluster_there_is_no_strategy(config, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UserError, match=message):
        cluster.strategy(options.parse(["main", "--strategy=multi_worker"]))


@pytest.mark.parametrize("word", ["--batch_norm", "--clip_norm=1"])
def test_what_would_be_each_replicas_own_is_refused(word):
    with pytest.raises(UserError, match="each replica's own under --strategy=mirrored"):
        options.parse(["main", "--strategy=mirrored", word])
