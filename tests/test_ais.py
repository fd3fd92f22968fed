"""The command that anneals."""

import json
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from iwae_tf import ais, main, runs
from iwae_tf.errors import UserError
from iwae_tf.evaluation import annealing, log_likelihood
from iwae_tf.experiment import annealed, summary
from iwae_tf.report import command as report_command
from iwae_tf.runs import results as formats
from iwae_tf.runtime import signals

WORDS = ["--max_images=60", "--epochs=2", "--k=1", "--batch_size=20", "--latent_dims=3,2", "--hidden_dims=5;4"]
WORDS += ["--nll_samples=50", "--noexport", "--nojit"]
FLAGS = ["--num_images=7", "--num_chains=3", "--num_temperatures=6", "--nll_samples=50"]
BOTH = [*FLAGS, "--bidirectional"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a trained and annealed run."""
    folder = tmp_path_factory.mktemp("ais") / "run"
    main.main(["main", *WORDS, f"--run_dir={folder}"])
    ais.main(["ais", f"--run_dir={folder}", *BOTH])
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of it, to write to."""
    return shutil.copytree(folder, tmp_path / "run")


class Few(msgspec.Struct):
    """What one line shows."""

    num_images: int
    log_likelihood: formats.Mean
    difference: formats.Mean


def _arrays(folder):
    with np.load(folder / "ais.npz") as arrays:
        return dict(arrays)


def test_the_table():
    mean, quantiles = {"mean": -2.0, "stderr": 0.5}, {"mean": 0.7, "1%": 0.1, "10%": 0.2, "50%": 0.6, "90%": 0.9}
    images = {"num_images": 7, "log_likelihood": mean, "stderr_of_chains": 0.1, "importance_sampling": mean}
    images |= {
        "difference": {"mean": 0.25, "stderr": 0.125},
        "effective_sample_size": quantiles,
        "acceptance": quantiles,
    }
    both = {"test": images, "simulated": {**images, "upper": mean, "gap": {"mean": 0.01, "stderr": 0.02}}}
    content = {"steps": 3, "num_samples": 5000, "num_chains": 16, "flags": {}, **both}
    header, test, simulated, last = ais.table(msgspec.convert(content, formats.Annealing)).splitlines()
    assert header.split() == ["images", "number", "L_5,000", "AIS", "AIS", "-", "L_5,000", "upper", "bound", "gap"]
    assert test.split() == ["test", "7", "-2.00", "-2.00", "0.250", "+-", "0.125"]
    assert simulated.split() == [*["simulated", *test.split()[1:]], "-2.00", "0.010", "+-", "0.020"]
    assert last == "acceptance 70%, effective sample size 0.7 of 16 chains"


def test_what_it_writes(folder):
    content = json.loads((folder / "ais.json").read_text())
    assert (content["steps"], content["num_samples"], content["num_chains"]) == (6, 50, 3)
    assert content["flags"]["num_temperatures"] == 6
    arrays = _arrays(folder)
    for name in ("test", "simulated"):
        value, bound = arrays[f"{name}/log_likelihood"], arrays[f"{name}/importance_sampling"]
        assert value.shape == bound.shape == (7,)
        assert content[name]["log_likelihood"]["mean"] == pytest.approx(value.mean())
        assert content[name]["difference"]["mean"] == pytest.approx((value - bound).mean())
        stderr = (value - bound).std(ddof=1) / np.sqrt(7)
        assert content[name]["difference"]["stderr"] == pytest.approx(stderr)
        assert np.all(arrays[f"{name}/acceptance"] > 0.2)
    gap = arrays["simulated/upper"] - arrays["simulated/log_likelihood"]
    assert content["simulated"]["gap"]["mean"] == pytest.approx(gap.mean())
    assert "upper" not in content["test"]
    assert (folder / "figures" / "ais.png").stat().st_size > 10_000
    assert not (folder / "unfinished_annealing.npz").exists()


def test_the_bound_is_that_of_the_evaluation(folder):
    with np.load(folder / "test_log_likelihoods.npz") as stored:
        expected = stored["log_likelihood"][:7]
    np.testing.assert_allclose(_arrays(folder)["test/importance_sampling"], expected, atol=1e-4)


def test_simulated_images_have_bounds_on_both_sides(folder):
    """With six temperatures they are far apart, and L_50 is below the upper bound, too."""
    arrays = _arrays(folder)
    upper = arrays["simulated/upper"].mean()
    assert upper > arrays["simulated/log_likelihood"].mean()
    assert upper > arrays["simulated/importance_sampling"].mean()


@pytest.mark.slow
@pytest.mark.parametrize("calls_before", [1, 4, 9])
def test_an_interrupted_measurement_ends_with_the_same_bits(copied, monkeypatch, calls_before):
    """In small groups and calls; interrupted in a pilot, in a forward run and in another group."""
    monkeypatch.setattr(annealed, "_ROWS", 12)
    monkeypatch.setattr(annealed.Measurement, "_adapt_steps", lambda self, *_: setattr(self, "_steps_per_call", 3))
    command = ["ais", f"--run_dir={copied}", *BOTH, "--seed=1"]
    ais.main(command)
    expected, summary = _arrays(copied), (copied / "ais.json").read_text()
    calls = []

    def received():
        calls.append(1)
        return 15 if len(calls) == calls_before else None

    with monkeypatch.context() as patch:
        patch.setattr(signals, "received", received)
        with pytest.raises(signals.Interrupted):
            ais.main(command)
    assert (copied / "unfinished_annealing.npz").exists()
    begun = []
    begin = annealed.annealing.Annealer.begin
    monkeypatch.setattr(annealed.annealing.Annealer, "begin", lambda *args: (begun.append(args[-1]), begin(*args))[1])
    ais.main(command)
    assert begun.count("pilot") < 4  # Two groups in each of two sets.
    assert (copied / "ais.json").read_text() == summary
    for name, array in _arrays(copied).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.slow
def test_chains_outlast_an_interruption_of_the_importance_sampling(copied, monkeypatch):
    command = ["ais", f"--run_dir={copied}", *FLAGS, "--seed=2"]

    def interrupted(*args, **kwargs):
        raise signals.Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(log_likelihood, "evaluate_images", interrupted)
        with pytest.raises(signals.Interrupted):
            ais.main(command)
    assert runs.RunDirectory(copied).unfinished_annealing.exists()

    def forward(*args):
        raise AssertionError("it ran again")

    monkeypatch.setattr(annealed.annealing.Annealer, "forward", forward)
    ais.main(command)
    assert not runs.RunDirectory(copied).unfinished_annealing.exists()


@pytest.mark.slow
def test_a_damaged_unfinished_measurement_is_begun_again(copied, monkeypatch):
    command = ["ais", f"--run_dir={copied}", *FLAGS, "--seed=3"]
    with monkeypatch.context() as patch:
        patch.setattr(signals, "received", lambda: 15)
        with pytest.raises(signals.Interrupted):
            ais.main(command)
    path = runs.RunDirectory(copied).unfinished_annealing
    with np.load(path) as stored:
        arrays = {name: array for name, array in stored.items() if name != "current/value"}
    assert len(arrays) > 5
    np.savez(path, **arrays)
    ais.main(command)
    assert not path.exists()


@pytest.mark.slow
def test_estimates_that_are_not_finite_are_refused(copied, monkeypatch):
    monkeypatch.setattr(annealed.annealing, "lower", lambda weights: annealing.Estimate(*np.full([3, 7], np.nan)))
    with pytest.raises(UserError, match="The estimates of 7 test images are not finite .the first is number 0"):
        ais.main(["ais", f"--run_dir={copied}", *FLAGS])


def test_chains_that_are_worse_than_importance_sampling_are_said_to_be():
    images = {
        "num_images": 7,
        "log_likelihood": {"mean": -90.0, "stderr": 1.0},
        "difference": {"mean": -3.0, "stderr": None},
    }
    content = SimpleNamespace(num_samples=5000, test=msgspec.convert(images, Few))
    assert summary.annealing(content).endswith(
        "NLL 90.00, which is above -L_5,000 of the same images: it needs more temperatures"
    )
    images["difference"] = {"mean": 0.5, "stderr": None}
    content.test = msgspec.convert(images, Few)
    assert summary.annealing(content).endswith("which is 0.50 below -L_5,000 of the same images")


@pytest.mark.slow
def test_groups_do_not_change_which_images_are_measured(copied, monkeypatch):
    whole = _arrays(copied)["test/importance_sampling"]
    monkeypatch.setattr(annealed, "_ROWS", 9)  # Groups of 3, 3 and 1 image.
    ais.main(["ais", f"--run_dir={copied}", *FLAGS])
    arrays = _arrays(copied)
    np.testing.assert_array_equal(arrays["test/importance_sampling"], whole)
    assert arrays["test/log_likelihood"].shape == (7,)
    assert "simulated/upper" not in arrays


def test_results_are_shown_beside_the_nll(copied, capsys):
    main.main(["main", *WORDS, f"--run_dir={copied}"])
    assert "annealed importance sampling of 7 test images: NLL " in capsys.readouterr().out
    report_command.main(["report", str(copied), f"--out={copied.parent / 'report'}"])
    report = (copied.parent / "report" / "report.md").read_text()
    difference = json.loads((copied / "ais.json").read_text())["test"]["difference"]
    side = "below" if difference["mean"] >= 0.0 else "above"
    shown = f"{abs(difference['mean']):.2f} +- {difference['stderr']:.2f} {side} -L_50 of 7 images"
    assert shown in report.replace("\\", "")


def test_they_are_not_shown_beside_those_of_other_weights(copied, capsys):
    run = runs.RunDirectory(copied)
    content = json.loads(run.ais.read_text())
    run.ais.write_text(json.dumps({**content, "steps": 3}))
    capsys.readouterr()
    main.main(["main", *WORDS, f"--run_dir={copied}"])
    assert "annealed" not in capsys.readouterr().out


def test_a_run_that_is_trained_further_loses_them(tmp_path):
    run = runs.RunDirectory(tmp_path)
    for path in (run.ais, run.ais_arrays, run.unfinished_annealing):
        path.write_text("{}")
    run.discard_results()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--run_dir is missing"),
        (["--run_dir=nowhere"], "nowhere is not a run directory"),
        (["--run_dir=x", "--num_chains=1"], "num_chains"),
        (["--run_dir=x", "--start=q"], "should be one of <posterior|prior>"),
    ],
)
def test_bad_input_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        ais.main(["ais", *words])


def test_a_damaged_file_is_refused_in_one_line(copied):
    run = runs.RunDirectory(copied)
    run.ais.write_text("{}")
    with pytest.raises(UserError, match="ais.json is damaged .*; remove it to measure again"):
        main.main(["main", *WORDS, f"--run_dir={copied}"])
