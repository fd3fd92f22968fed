"""Processes that are killed, asked to stop or out of disk space, and started again with the same command."""

import itertools
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest

import iwae_tf
from iwae_tf import main, runs
from iwae_tf.runs import checkpoints
from iwae_tf.runtime import files

# Many epochs of few steps: kills hit every place between two checkpoints.
FLAGS = ["--k=3", "--batch_size=20", "--latent_dims=4,2", "--nll_samples=500", "--noexport", "--picture_every=3"]
FLAGS += ["--checkpoint_minutes=0", "--seed=5"]


def _start(run_dir, *words, **popen_options):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(iwae_tf.__file__).parent.parent)}
    command = [sys.executable, "-m", "iwae_tf.main", *FLAGS, *words, f"--run_dir={run_dir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **popen_options)


def _finish(run_dir, *words):
    _, notes = (process := _start(run_dir, *words)).communicate()
    assert process.returncode == 0, notes
    return notes


def _assert_same(run_dir, whole_dir):
    """Compares two runs exactly, except for their times."""
    run, whole = runs.RunDirectory(run_dir), runs.RunDirectory(whole_dir)
    last = checkpoints.steps(whole.checkpoints)[-1]
    arrays, expected = (files.read_arrays(checkpoints.path(each.checkpoints, last)) for each in (run, whole))
    assert arrays.keys() == expected.keys()
    for name in expected.keys() - {"seconds", "history"}:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    rows, expected_rows = ([{**row, "seconds": 0} for row in each.read_history()] for each in (run, whole))
    assert rows == expected_rows
    values, expected = (files.read_arrays(each.test_log_likelihoods)["log_likelihood"] for each in (run, whole))
    np.testing.assert_array_equal(values, expected)
    results, expected = (msgspec.structs.replace(each.read_results(), training=None) for each in (run, whole))
    assert results == expected
    assert not run.unfinished_evaluation.exists()


def _kill_repeatedly(run_dir, words, kills, most_lines, seed=0):
    """Starts the command again and again, and kills it soon after a random line of its progress.

    Args:
      run_dir: its run directory.
      words: its flags.
      kills: how often.
      most_lines: the most lines of progress before a kill.
      seed: seed of the moments.

    Returns:
      The number of kills: fewer than `kills` if the command came to its end.
    """
    rng = random.Random(seed)
    for count in range(kills):
        process = _start(run_dir, *words)
        lines = rng.randint(1, most_lines)
        if len(list(itertools.islice(process.stderr, lines))) < lines:
            process.communicate()
            return count
        time.sleep(rng.uniform(0.0, 0.3))  # An epoch takes less.
        process.kill()
        process.communicate()
    return kills


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(tmp_path):
    words = ["--epochs=60", "--max_images=2000"]
    _finish(tmp_path / "whole", *words)
    # The progress of training and evaluation has about 70 lines, however fast the machine is.
    assert _kill_repeatedly(tmp_path / "run", words, kills=12, most_lines=10) >= 5
    _finish(tmp_path / "run", *words)
    _assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_run_killed_once_ends_as_an_uninterrupted_one(policy, tmp_path, capsys):
    """The fast version of the test above: one kill, as soon as there is a checkpoint."""
    words = ["--epochs=6", "--max_images=100", "--nojit", "--latent_dims=4", "--hidden_dims=20", "--nll_samples=20"]
    words += [f"--dtype_policy={policy}"]
    process = _start(tmp_path / "run", *words)
    for line in process.stderr:
        if line.startswith("epoch 2/6"):
            process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    for name in ("whole", "run"):  # In this process, which saves the imports.
        main.main(["main", *FLAGS, *words, f"--run_dir={tmp_path / name}"])
    assert "training epochs 1" not in capsys.readouterr().err.split("all files go to")[-1]
    _assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_or_evaluation_with_its_exit_status(tmp_path, number):
    words = ["--epochs=20", "--max_images=2000", "--nll_samples=5000"]
    _finish(tmp_path / "whole", *words)
    for beginning in ("epoch  5/20", "800 of 2,000", "1,400 of 2,000"):
        process = _start(tmp_path / "run", *words)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(beginning):
                process.send_signal(number)
        process.communicate()
        assert process.returncode == 128 + number, lines
        assert lines[-1] == (
            f"iwae_tf: stopped by {number.name}; the work so far is saved, the same command continues\n"
        )
    assert (tmp_path / "run" / "unfinished_evaluation.npz").exists()
    before, _ = _finish(tmp_path / "run", *words).split("test images were measured before")
    assert "1,4" in before.splitlines()[-1]
    _assert_same(tmp_path / "run", tmp_path / "whole")


def _small_files():
    """Limits files to 200 kB, which acts like a full disk: writing fails with an error, as the signal is ignored."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_line_and_keeps_the_last_checkpoint(tmp_path):
    words = ["--schedule=paper", "--max_images=100"]
    # The average depends on the length of the training, so both runs are extended in the same way.
    for folder, stages in (("whole", 1), ("whole", 2), ("run", 1)):
        _finish(tmp_path / folder, *words, f"--stages={stages}")
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").iterdir()}
    _, err = (process := _start(tmp_path / "run", *words, "--stages=2", preexec_fn=_small_files)).communicate()
    assert process.returncode == 1
    assert [line for line in err.splitlines() if line.startswith("iwae_tf: ")] == err.splitlines()[-1:]
    assert err.splitlines()[-1].startswith("iwae_tf: Cannot write")
    assert {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").iterdir()} == before
    _finish(tmp_path / "run", *words, "--stages=2")
    _assert_same(tmp_path / "run", tmp_path / "whole")
