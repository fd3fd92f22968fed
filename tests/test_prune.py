"""The command that removes inactive units, as a user runs it."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import datasets, main, noise, prune, runs
from iwae_tf.datasets import binarization
from iwae_tf.errors import UserError

FLAGS = ["--k=2", "--epochs=1", "--max_images=20", "--batch_size=20", "--latent_dims=4,3", "--hidden_dims=10;6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = runs.RunDirectory(tmp_path_factory.mktemp("prune") / "run")
    main.main(["main", *FLAGS, "--nojit", "--nll_samples=30", "--noexport", f"--run_dir={run.path}"])
    return run


def _prune(run, *words):
    prune.main(["prune", f"--run_dir={run.path}", "--nll_samples=30", *words])
    return json.loads((run.pruned / "pruned.json").read_text())


@pytest.mark.slow
def test_the_command(run, capsys):
    record = _prune(run, "--threshold=1e9")
    output = capsys.readouterr().err
    assert "layer 1: no unit has a variance above 1e+09; the most active one is kept" in output
    assert "20 of 20 images  NLL" in output
    assert record["num_units"] == {"before": [4, 3], "after": [1, 1]}
    assert [len(kept) for kept in record["kept_units"]] == [1, 1]
    removed = (
        2 * 3 * 11 + 3 * 6 + 3 * 10 + 2 * 2 * 7 + 2 * 3 * 7 + 2 * 6
    )  # Of q, p(x | z_1), q(z_2 | z_1), p(z_1 | z_2).
    assert record["parameters"]["before"] - record["parameters"]["after"] == removed
    nll = record["nll"]
    assert nll["before"]["mean"] == pytest.approx(run.read_results().nll.mean, rel=1e-6)
    assert nll["difference"]["mean"] == pytest.approx(nll["after"]["mean"] - nll["before"]["mean"])
    assert (nll["num_samples"], nll["num_images"]) == (30, 20)
    test = binarization.fixed_binarization(datasets.load("mnist").test[:20], "test")
    signature = tf.saved_model.load(str(run.pruned / "saved_model")).signatures["log_likelihood"]
    values = signature(x=tf.constant(test), num_samples=tf.constant(30), seed=noise.key(1, "test"))["log_likelihood"]
    assert -np.mean(values) == pytest.approx(nll["after"]["mean"], abs=1.0)
    run.claim(run.read_flags())  # It is still a run, which can be continued.
    run.release()


@pytest.mark.slow
def test_fewer_images_without_an_export(run):
    record = _prune(run, "--threshold=1e9", "--images=7", "--noexport")
    assert record["nll"]["num_images"] == 7
    assert not (run.pruned / "saved_model").exists()  # Nor that of an earlier call, which might be another one.


@pytest.mark.slow
def test_where_every_unit_is_active_nothing_is_written(run, capsys):
    run.discard_pruned()
    prune.main(["prune", f"--run_dir={run.path}", "--threshold=0"])
    out = capsys.readouterr().out
    assert "every unit is active" in out
    assert "earlier" not in out
    assert not run.pruned.exists()


def test_where_every_unit_is_active_an_earlier_result_is_named(tmp_path):
    run, measured = runs.RunDirectory(tmp_path), [types.SimpleNamespace(variances=np.array([0.5, 0.02]))]
    run.pruned.mkdir()
    text = prune._nothing_to_remove(measured, run)
    assert "the smallest variance is 0.02" in text
    assert text.endswith(f"{run.pruned}/ is from an earlier call")


@pytest.mark.slow
def test_a_run_that_another_process_works_in_is_refused(run):
    with runs.RunDirectory(run.path) as other:
        other.take()
        with pytest.raises(UserError, match="Another process is working in"):
            _prune(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--run_dir is missing"),
        (["--run_dir=nowhere"], "is not a run directory"),
        (["--run_dir=x", "--threshold=-1"], "threshold"),
        (["--run_dir=x", "--threshold=nan"], "is not a variance"),
        (["--run_dir=x", "images=5"], "is not a flag"),
    ],
)
def test_bad_input_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        prune.main(["prune", *words])
    assert not list(tmp_path.iterdir())
