"""The command that measures gradient estimators."""

import json

import linear_gaussian
import numpy as np
import pytest

from iwae_tf import gradients, main, runs
from iwae_tf.errors import UserError
from iwae_tf.evaluation import gradient_moments


def _measure(*names, widen=1.5, draws=200):
    model, _ = linear_gaussian.build(1, widen=widen, num_samples=4)
    model.compile(jit_compile=False)
    return gradient_moments.measure(model, names, linear_gaussian.data(), draws)


def test_the_biased_estimator_is_detected_and_the_unbiased_one_is_not():
    measured = _measure("dreg", "stl")
    assert abs(measured["dreg"]["inference"].bias_t) < 4.5
    assert abs(measured["stl"]["inference"].bias_t) > 8.0
    assert abs(measured["stl"]["generative"].bias_t) < 1.0  # It equals the standard gradient, up to rounding.


def test_near_the_true_posterior_dreg_has_less_variance():
    standard, dreg = (networks["inference"] for networks in _measure("standard", "dreg", widen=1.05).values())
    assert standard.bias_t is None
    assert dreg.variance < 0.2 * standard.variance
    assert dreg.signal_to_noise > standard.signal_to_noise


@pytest.mark.slow
def test_the_size_of_a_bias_does_not_depend_on_the_number_of_draws():
    few, many = (_measure("stl", draws=draws)["stl"]["inference"] for draws in (40, 1000))
    # A bias over its t statistic is its standard error.
    stderr = np.hypot(few.relative_bias / few.bias_t, many.relative_bias / many.bias_t)
    assert abs(few.relative_bias - many.relative_bias) < 4.5 * stderr
    assert 4.5 * stderr < abs(many.relative_bias)  # A bias that grew with the draws would be detected.


@pytest.mark.slow
def test_variance_falls_with_the_number_of_images():
    """The gradient is a mean over images; nine copies of an image give a ninth of the variance."""
    model, _ = linear_gaussian.build(1, widen=1.3, num_samples=4)
    model.compile(jit_compile=False)
    x = linear_gaussian.data(batch=1)
    ratios = []
    for seed in range(6):
        single, repeated = (
            gradient_moments.measure(model, [], np.repeat(x, n, axis=0), 100, seed)["standard"]["generative"].variance
            for n in (1, 9)
        )
        ratios.append(np.log(single / repeated))
    stderr = np.std(ratios, ddof=1) / np.sqrt(len(ratios))
    assert abs(np.mean(ratios) - np.log(9.0)) < 4.5 * stderr
    assert stderr < 0.1  # Without the mean over images the ratio would be 1.


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "--k=2",
        "--epochs=1",
        "--max_images=40",
        "--batch_size=20",
        "--latent_dims=3",
        "--hidden_dims=8",
        "--nojit",
    ]
    main.main(["main", *words, "--run_dir=run", "--noevaluate", "--noexport"])
    capsys.readouterr()
    gradients.main(["gradients", "--run_dir=run", "--k=1,3", "--draws=12", "--images=5"])
    content = json.loads((tmp_path / "run" / "gradients.json").read_text())
    kinds = {(row["network"], row["k"], row["estimator"]) for row in content["rows"]}
    assert len(kinds) == len(content["rows"]) == 2 * (4 + 5)  # The wake phase needs two samples.
    assert all(row["variance"] > 0.0 for row in content["rows"])
    assert (tmp_path / "run" / "figures" / "gradients.png").stat().st_size > 10_000
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "measuring k = 1; compiling takes some seconds"
    assert captured.out.startswith("network ")


def test_a_number_of_samples_that_the_objective_does_not_have_is_refused(tmp_path):
    (tmp_path / "flags.txt").write_text("--objective=jackknife\n--k=5\n")
    (tmp_path / "data.json").write_text('{"image_shape": [28, 28]}')
    with pytest.raises(UserError, match="--k=1 is not compatible with this run: .* at least 2 samples"):
        gradients.main(["gradients", f"--run_dir={tmp_path}", "--fresh", "--k=1,5"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--run_dir is missing"),
        (["--run_dir=nowhere"], "is not a run directory"),
        (["--run_dir=x", "--k=0"], "is not a list of positive integers"),
        (["--run_dir=x", "k=5"], "is not a flag"),
        (["--run_dir=x", "--drawz=3"], "drawz"),
    ],
)
def test_bad_input_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        gradients.main(["gradients", *words])


def test_it_does_not_write_while_another_process_uses_the_run(tmp_path):
    (tmp_path / "flags.txt").write_text("--k=5\n")
    with runs.RunDirectory(tmp_path) as other:
        other.take()
        with pytest.raises(UserError, match="Another process is working in"):
            gradients.main(["gradients", f"--run_dir={tmp_path}", "--fresh", "--k=1"])
