"""A run directory of version 0.1.0 stays usable: see tests/data/README.md."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import iwae_tf
from iwae_tf import gradients, main, prune, runs
from iwae_tf.datasets import binarization
from iwae_tf.experiment import build, stored
from iwae_tf.report import command as report
from iwae_tf.runs import history

DATA = pathlib.Path(__file__).parent / "data"
NAME = "run_c8fb7f7"
# The command that made the run, without --stages.
COMMAND = [
    "main",
    "--dataset=npz:digits.npz",
    "--schedule=paper",
    "--k=3",
    "--latent_dims=4,2",
    "--hidden_dims=8;6",
    "--batch_size=10",
    "--nll_samples=50",
    "--gradient_estimator=dreg",
    "--khat_images=5",
    "--nojit",
    "--noexport",
    f"--run_dir={NAME}",
]


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """A copy of the run in the current folder, with its data."""
    shutil.copytree(DATA / NAME, tmp_path / NAME)
    shutil.copy(DATA / "digits.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    return runs.RunDirectory(NAME)


def _log_likelihoods(run):
    with np.load(run.test_log_likelihoods) as arrays:
        return arrays["log_likelihood"]


def test_it_has_no_format_version_and_its_options_are_read(old_run):
    assert not old_run.flags.read_text().startswith("#")
    options = stored.read_options(old_run)
    assert (options.k, options.latent_dims, options.hidden_dims) == (3, (4, 2), ((8,), (6,)))


def test_it_loads_with_the_log_likelihoods_that_were_measured(old_run):
    """The tolerance is the rounding of float32 sums of about 30 nats, on another processor perhaps."""
    model = iwae_tf.load(NAME)
    images, data = build.load_images(stored.read_options(old_run))
    old_run.check_data(data)
    x = binarization.fixed_binarization(images.test, "test")
    measured = iwae_tf.log_likelihood(model, x, num_samples=50)
    np.testing.assert_allclose(measured.values, _log_likelihoods(old_run), atol=1e-3)


def test_it_is_finished_and_shows_its_results(old_run, capsys):
    main.main([*COMMAND, "--stages=2"])
    printed, notes = capsys.readouterr()
    assert "is finished" in notes
    assert "25.55 +- 1.61           4+2" in printed


@pytest.mark.slow
def test_it_continues_as_its_own_version_did(old_run):
    """45 further steps; their rounding differs between processors, by far less than the bounds change in an epoch."""
    main.main([*COMMAND, "--stages=3"])
    expected = history.read_history(DATA / f"{NAME}_continued_history.csv")
    rows = old_run.read_history()
    assert len(rows) == len(expected) == 13
    for row, other in zip(rows, expected, strict=True):
        for name in set(runs.HISTORY_COLUMNS) - {"seconds"}:
            assert row[name] == pytest.approx(other[name], rel=1e-4), (row["epoch"], name)
    assert old_run.read_results().training.epochs == 13
    assert old_run.flags.read_text().startswith("# iwae_tf run, format 2\n")


def test_it_is_evaluated_again_with_the_same_results(old_run):
    before, values = old_run.read_results(), _log_likelihoods(old_run)
    for path in (old_run.results, old_run.test_log_likelihoods, old_run.samples):
        path.unlink()
    main.main([*COMMAND, "--stages=2"])
    np.testing.assert_allclose(_log_likelihoods(old_run), values, atol=1e-3)
    after = old_run.read_results()
    assert after.nll.mean == pytest.approx(before.nll.mean, abs=1e-4)
    assert after.active_units.per_layer == before.active_units.per_layer
    assert after.k_hat.share_above == before.k_hat.share_above


def test_it_is_reported(old_run, tmp_path):
    report.main(["report", NAME, f"--out={tmp_path / 'report'}", "--json"])
    (run,) = json.loads((tmp_path / "report" / "report.json").read_text())["runs"]
    assert run["title"] == "IWAE, 2 layers, k = 3, dreg"
    assert run["results"]["nll"]["mean"] == old_run.read_results().nll.mean


@pytest.mark.slow
def test_it_is_pruned(old_run):
    prune.main(["prune", f"--run_dir={NAME}", "--nll_samples=20", "--threshold=0.1", "--noexport"])
    pruned = json.loads((old_run.pruned / "pruned.json").read_text())
    assert pruned["num_units"]["before"] == [4, 2]
    assert sum(pruned["num_units"]["after"]) < 6


@pytest.mark.slow
def test_its_gradients_are_measured(old_run):
    gradients.main(["gradients", f"--run_dir={NAME}", "--k=2", "--draws=10", "--images=5"])
    rows = json.loads(old_run.gradients.read_text())["rows"]
    assert {row["estimator"] for row in rows} >= {"standard", "dreg"}


def test_other_flags_are_refused_by_name(old_run):
    with pytest.raises(iwae_tf.errors.UserError, match=r"other settings \(k is 3 there and 4 here\)"):
        main.main([*COMMAND, "--stages=2", "--k=4"])
