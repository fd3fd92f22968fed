"""The whole command on a few images, as a user runs it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import matplotlib.image
import msgspec
import numpy as np
import pytest
import tensorflow as tf

import iwae_tf
from iwae_tf import bounds, compatibility, datasets, gradients, layers, main, networks, noise, runs, training
from iwae_tf.datasets import binarization
from iwae_tf.errors import UserError
from iwae_tf.evaluation import units
from iwae_tf.experiment import build, parsing

FLAGS = ["--k=3", "--epochs=2", "--max_images=60", "--batch_size=20", "--latent_dims=4,2", "--nll_samples=30"]


def _command(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(iwae_tf.__file__).parent.parent)}
    command = [sys.executable, "-m", "iwae_tf.main", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The process of a whole run in an empty folder, and its run directory."""
    folder = tmp_path_factory.mktemp("main")
    process = _command(*FLAGS, cwd=folder)
    assert process.returncode == 0, process.stderr
    return process, runs.RunDirectory(folder / "runs" / "mnist_iwae_2l_k3_seed0")


def test_what_a_run_prints(finished):
    process, _ = finished
    notes, results = process.stderr.splitlines(), process.stdout.splitlines()
    epoch = r"epoch 2/2  train +-\d+\.\d\d  validation +-\d+\.\d\d nats  0 s left"
    assert any(re.fullmatch(epoch, line) for line in notes)
    assert len(results) == 3
    assert re.match(r"IWAE, 2 layers, k = 3 +\d+\.\d\d \+- \d+\.\d\d +\d\+\d$", results[-2])
    assert re.fullmatch(r"2 epochs, \d+ s of training; 60 test images of mnist", results[-1])


def test_what_a_run_leaves_behind(finished):
    _, run = finished
    names = {"flags.txt", "data.json", "history.csv", "results.json", "test_log_likelihoods.npz", "samples.npz"}
    folders = {"checkpoints", "figures", "saved_model", "train", "validation", "test"}
    assert {path.name for path in run.path.iterdir()} == names | folders | {".lock"}
    assert {path.name for path in run.figures.iterdir()} == {
        "samples.png",
        "reconstructions.png",
        "bounds.png",
        "samples_needed.png",
        "worst_images.png",
        "units.png",
        "traversal.png",
        "interpolations.png",
        "embedding.png",
        "nll_by_class.png",
    }
    assert matplotlib.image.imread(run.figures / "samples.png").shape[:2] == (2 * 291, 2 * 291)
    with np.load(run.samples) as samples:
        assert samples["probabilities"].shape == (100, 28, 28)


def test_results(finished):
    _, run = finished
    results = run.read_results()
    with np.load(run.test_log_likelihoods) as arrays:
        log_likelihood = arrays["log_likelihood"]
    assert log_likelihood.shape == (60,)
    assert results.nll.mean == pytest.approx(-log_likelihood.mean())
    assert results.nll.stderr == pytest.approx(log_likelihood.std(ddof=1) / np.sqrt(60))
    assert (results.nll.num_samples, results.nll.num_images) == (30, 60)
    assert results.elbo < results.iwae_bound.mean < -results.nll.mean
    assert results.iwae_bound.k == 3
    assert [row.k for row in results.bounds] == [1, 3, 5, 10, 30]
    assert results.bounds[-1].mean == pytest.approx(-results.nll.mean)
    assert results.bounds[1].mean == pytest.approx(results.iwae_bound.mean)
    assert results.corrected_nll.mean == pytest.approx(results.nll.mean, abs=1.0)
    assert 1.0 <= results.effective_sample_size.percent_50 <= 30.0
    assert 1 / 30 <= results.largest_weight.percent_50 <= 1.0
    assert results.training.steps == 6
    assert results.data.binarization == "stochastic"
    assert results.data.num_images == {"train": 60, "validation": 60, "test": 60}
    assert results.data == run.read_data()
    assert results.flags["latent_dims"] == "4,2"
    assert set(results.versions) == {"tensorflow", "tensorflow_probability", "keras", "iwae_tf"}


def test_the_stored_active_units_are_those_of_the_loaded_model(finished):
    _, run = finished
    test = binarization.fixed_binarization(datasets.load("mnist").test[:60], "test")
    model = iwae_tf.load(run.path)
    results = run.read_results()
    counts = results.active_units.per_layer
    assert counts == units.active_units(model, test)
    assert 0 < sum(counts) <= 6
    assert counts == [sum(variance > 0.01 for variance in layer.variances) for layer in results.units]
    train = binarization.fixed_binarization(datasets.load("mnist").train[:60], "train")
    authors = {"per_layer": units.active_units(model, train, 1), "num_images": 60, "num_samples": 1, "split": "train"}
    assert msgspec.to_builtins(results.active_units.authors_code) == authors


@pytest.mark.parametrize("objective", ["iwae", "vae"])
def test_the_model_is_the_one_that_the_flags_ask_for(objective):
    words = [f"--objective={objective}", "--k=7", "--latent_dims=6,5", "--hidden_dims=9,8;4", "--seed=3"]
    options = parsing.parse(["main", *words])
    images = datasets.load("mnist").first(50)
    model = build.build_model(options, images.event_shape, images)
    model(tf.zeros([1, 784]))
    assert model.objective.name == objective
    assert (model.num_samples, model.seed, model.inference.latent_dims) == (7, 3, [6, 5])
    p_x, p_z1 = model.generative.conditionals
    np.testing.assert_array_equal(p_x.logits.bias, layers.output_bias_from_mean(images.train_mean))
    assert [layer.units for layer in (*p_x.hidden, *p_z1.hidden)] == [8, 9, 4]
    assert [layer.units for layer in model.inference.stochastic_layers[0].hidden] == [9, 8]
    same, _ = networks.paper_networks(784, (6, 5), ((9, 8), (4,)), seed=3)
    same(tf.zeros([1, 784]), [tf.zeros([1, 1, 6]), tf.zeros([1, 1, 5])])
    np.testing.assert_array_equal(same.weights[0], model.inference.weights[0])


def test_the_plan_is_the_one_that_the_flags_ask_for():
    words = ["--epochs=7", "--learning_rate=0.01", "--batch_size=30", "--adam_epsilon=0.1", "--ema_momentum=0.5"]
    plan = build.build_plan(parsing.parse(["main", *words, "--picture_every=4", "--nojit"]))
    assert plan == training.Plan("cosine", 7, 0, 1, 0.01, 30, 0.1, 0.5, 4, False)
    paper = build.build_plan(parsing.parse(["main", "--schedule=paper", "--stages=3"]))
    assert (paper.schedule, paper.epochs, paper.learning_rate) == ("paper", 13, 1e-3)


@pytest.mark.slow
def test_results_of_a_shorter_training_do_not_hold_for_a_longer_one(tmp_path):
    """--stages grows: the exported model and the results are those of the longer training."""
    run = runs.RunDirectory(tmp_path / "run")
    words = ["main", *FLAGS[:1], *FLAGS[2:], "--latent_dims=3", "--schedule=paper", "--nojit", f"--run_dir={run.path}"]
    main.main([*words, "--stages=1"])
    assert run.saved_model.exists()
    main.main([*words, "--stages=2", "--noexport"])
    assert not run.saved_model.exists()
    assert run.read_results().training.epochs == 4


def test_what_cannot_be_trained_does_not_overwrite(finished, tmp_path):
    _, run = finished
    stored = run.read_results()
    too_large = "batch_size=70 is more than the 60 training images"
    for words, message in (["--batch_size=70"], too_large), (["--notrain"], "would remove the model"):
        with pytest.raises(UserError, match=message):
            main.main(["main", *FLAGS, *words, "--overwrite", f"--run_dir={run.path}"])
    assert run.read_results() == stored
    assert run.checkpoints.exists()


def test_the_loaded_model_has_the_log_likelihoods_that_were_stored(finished):
    """By another way than evaluation's: all samples at once, from other noise."""
    _, run = finished
    model = iwae_tf.load(run.path)
    test = binarization.fixed_binarization(datasets.load("mnist").test[:60], "test")
    values = [
        bounds.iwae_bound(model.log_weights(test, 30, noise.key(seed, "test"))).numpy().mean() for seed in range(8)
    ]
    stderr = np.std(values, ddof=1)
    assert abs(np.mean(values) + run.read_results().nll.mean) < 5.0 * stderr
    assert stderr < 0.2


def test_the_saved_model_has_them_too(finished):
    _, run = finished
    saved = tf.saved_model.load(str(run.saved_model))
    test = binarization.fixed_binarization(datasets.load("mnist").test[:60], "test")
    output = saved.signatures["log_likelihood"](
        x=tf.constant(test), num_samples=tf.constant(30), seed=noise.key(0, "evaluation")
    )
    with np.load(run.test_log_likelihoods) as arrays:
        np.testing.assert_allclose(output["log_likelihood"], arrays["log_likelihood"], atol=1e-3)


def test_the_validation_bound_of_the_history_is_that_of_the_model(finished):
    _, run = finished
    model = iwae_tf.load(run.path)
    x = binarization.fixed_binarization(datasets.load("mnist").validation[:60], "validation")
    measured = bounds.iwae_bound(model.log_weights(x, 3, noise.key(0, "validation", 0))).numpy().mean()
    assert run.read_history()[-1]["validation_iwae_bound"] == pytest.approx(measured, abs=1e-3)


def test_a_finished_run_shows_its_results_without_tensorflow(finished):
    process, run = finished
    code = "import sys; import iwae_tf.main as main; sys.argv = ['main', *sys.argv[1:]]; main.run()\n"
    code += "print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, *FLAGS, f"--run_dir={run.path}"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is finished" in again.stderr
    assert again.stdout.splitlines() == [*process.stdout.splitlines(), "False"]


def test_results_as_json_and_no_notes(finished, capsys):
    _, run = finished
    main.main(["main", *FLAGS, "--json", "--verbosity=warning", f"--run_dir={run.path}"])
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(run.results.read_bytes())
    assert err == ""


def test_other_flags_are_refused_and_evaluation_flags_are_not(finished, capsys):
    _, run = finished
    with pytest.raises(UserError, match=r"k is 3 there and 4 here"):
        main.main(["main", *FLAGS, "--k=4", f"--run_dir={run.path}"])
    stored = run.read_results()
    main.main(["main", *FLAGS, "--nll_samples=10", "--noexport", "--nojit", f"--run_dir={run.path}"])
    assert "training epochs" not in capsys.readouterr().err
    results = run.read_results()
    assert results.nll.num_samples == 10
    assert results.training.seconds == pytest.approx(stored.training.seconds)
    run.write_results(stored)


@pytest.mark.slow
def test_another_format_of_the_figures_draws_again_without_measuring(finished, capsys):
    _, run = finished
    results, picture = run.results.read_bytes(), (run.figures / "samples.png").read_bytes()
    main.main(["main", *FLAGS, "--figure_format=png,pdf", "--noexport", "--nojit", f"--run_dir={run.path}"])
    assert "evaluating" not in capsys.readouterr().err
    assert run.results.read_bytes() == results
    assert (run.figures / "samples.png").read_bytes() == picture
    drawn = [{path.stem for path in run.figures.glob(f"*.{form}")} for form in ("png", "pdf")]
    assert drawn[0] == drawn[1]
    main.main(["main", *FLAGS, "--figure_format=pdf", f"--run_dir={run.path}"])
    assert "is finished" in capsys.readouterr().err
    for path in run.figures.glob("*.pdf"):
        path.unlink()


@pytest.mark.slow
def test_parts_can_be_skipped(tmp_path):
    run = runs.RunDirectory(tmp_path / "run")
    flags = ["main", *FLAGS, "--latent_dims=3", "--epochs=1", "--nojit", f"--run_dir={run.path}"]
    main.main([*flags, "--noevaluate", "--noexport"])
    assert run.checkpoints.exists()
    assert not run.results.exists()
    assert not run.saved_model.exists()
    main.main([*flags, "--notrain", "--noexport"])
    assert run.results.exists()
    assert not run.saved_model.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["k=5"], "iwae_tf: 'k=5' is not a flag; did you mean --k=5?"),
        (["--run_dir=notes"], "holds something other than a run"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(words, message, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    process = _command(*words, cwd=tmp_path)
    assert process.returncode == 1
    assert message in process.stderr
    assert process.stderr.count("\n") == 1
    assert (tmp_path / "notes" / "notes.txt").read_text() == "mine"


def test_a_folder_without_a_trained_model_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="is neither a run directory nor a released model"):
        iwae_tf.load(tmp_path / "nothing")
    (tmp_path / "flags.txt").write_text("--k=3\n")
    with pytest.raises(UserError, match="has no checkpoint"):
        iwae_tf.load(tmp_path)


def test_what_is_not_trained_is_not_evaluated(tmp_path):
    with pytest.raises(UserError, match=r"There is no run in .*nothing, so there is no trained model"):
        main.main(["main", "--notrain", f"--run_dir={tmp_path / 'nothing'}"])
    assert not (tmp_path / "nothing").exists()


def test_results_are_plain_json(finished):
    _, run = finished
    assert json.loads(run.results.read_text()) == json.loads(msgspec.json.encode(run.read_results()))


@pytest.mark.slow
def test_a_run_starts_from_another_models_weights(finished, tmp_path):
    _, run = finished
    source = tmp_path / "source"
    shutil.copytree(run.path, source)
    words = [*FLAGS, "--nojit", "--noevaluate", "--noexport", "--objective=vae", f"--init_from={source}"]
    options = parsing.parse(["main", *words])
    model = build.build_model(options, (28, 28))
    build.initialise(model, build.initial_model(options), source)
    for ours, theirs in zip(model.weights, iwae_tf.load(source).weights, strict=False):
        np.testing.assert_array_equal(ours, theirs)
    words += [f"--run_dir={tmp_path / 'new'}", "--epochs=1", "--learning_rate=1e-9"]
    main.main(["main", *words])
    x = np.zeros([3, 784], np.float32)
    np.testing.assert_allclose(iwae_tf.load(tmp_path / "new")(x), model(x), rtol=1e-3)
    source.rename(tmp_path / "moved")
    main.main(["main", *words])  # What is continued does not need it any more.


def test_a_run_does_not_start_from_itself(finished):
    """With --overwrite it would remove its source."""
    _, run = finished
    with pytest.raises(UserError, match="is the run directory itself"):
        main.main(["main", *FLAGS, f"--init_from={run.path}/.", "--overwrite", f"--run_dir={run.path}"])


@pytest.mark.slow
def test_more_can_be_measured_of_a_finished_run(finished, capsys):
    """The same NLL, and beside it k-hats, another binarisation and training images; by default none of them."""
    _, run = finished
    stored = run.read_results()
    words = ["--khat_images=5", "--binarization_seeds=2", "--train_nll_images=20"]
    main.main(["main", *FLAGS, *words, "--noexport", f"--run_dir={run.path}"])
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("evaluating")] == [
        "evaluating 60 test images with 30 samples each",
        "evaluating 60 test images of binarisation 1 with 30 samples each",
        "evaluating 20 training images with 30 samples each",
    ]
    results = run.read_results()
    assert results.nll.mean == pytest.approx(stored.nll.mean, abs=1e-4)
    with np.load(run.test_log_likelihoods) as arrays:
        k_hats, others, train = (arrays[n] for n in ("k_hat", "log_likelihood_binarization_1", "train_log_likelihood"))
        first = arrays["log_likelihood"]
    assert np.isnan(k_hats).tolist() == [False] * 5 + [True] * 55
    assert results.k_hat.num_images == 5
    assert results.k_hat.share_above == pytest.approx(np.mean(k_hats[:5] > 0.7))
    assert results.binarizations.nll == pytest.approx([-first.mean(), -others.mean()])
    assert results.binarizations.sd == pytest.approx(abs(first.mean() - others.mean()) / np.sqrt(2))
    assert not np.allclose(first, others)
    assert results.train_nll.mean == pytest.approx(-train.mean())
    assert len(train) == results.train_nll.num_images == 20
    assert not {"k_hat", "binarizations", "train_nll"} & set(msgspec.to_builtins(stored))
    run.write_results(stored)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init_from=nowhere"], "neither a run directory nor a released model"),
        ([f"--init_from={__file__}"], "is a file, not a run directory"),
        (["--latent_dims=5,2"], "other layers"),
        (["--activation=relu"], "has --activation=tanh; use the same"),
    ],
)
def test_what_a_run_cannot_start_from_is_refused(finished, words, message, tmp_path):
    _, run = finished
    flags = [*FLAGS, f"--init_from={run.path}", *words, f"--run_dir={tmp_path / 'new'}"]
    with pytest.raises(UserError, match=message):
        main.main(["main", *flags])
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_ones_own_images_and_what_they_become(tmp_path, capsys):
    """Not square, binarised once; other images are refused, for training on and for measuring gradients."""
    pictures = np.random.default_rng(0).integers(0, 256, [80, 6, 5], np.uint8)
    np.savez(tmp_path / "own.npz", train=pictures[:60], test=np.concatenate([pictures[50:], pictures[:3]]))
    words = [f"--dataset=npz:{tmp_path / 'own.npz'}", "--binarization=threshold", "--batch_size=10"]
    _run_to_the_end(words, tmp_path, capsys)
    run = runs.RunDirectory(tmp_path / "run")
    data = run.read_results().data
    assert (data.binarization, data.image_shape, data.num_duplicates) == ("threshold", (6, 5), 7)
    assert iwae_tf.load(run.path)(tf.zeros([2, 30])).shape == (2,)
    np.savez(tmp_path / "own.npz", train=255 - pictures[:60], test=pictures[60:])
    run.results.unlink()
    with pytest.raises(UserError, match="was trained on other images .*sha256"):
        _run_to_the_end(words, tmp_path, capsys)
    with pytest.raises(UserError, match="was trained on other images"):
        gradients.main(["gradients", f"--run_dir={run.path}"])
    np.savez(tmp_path / "own.npz", train=pictures[:60] // 2, test=pictures[60:])
    with pytest.raises(UserError, match="--binarization=threshold makes all training images black"):
        main.main(["main", *FLAGS, *words, f"--run_dir={tmp_path / 'dark'}"])


@pytest.mark.slow
def test_two_units_are_drawn_in_full(tmp_path, capsys):
    words = [*FLAGS, "--nojit", "--epochs=1", "--latent_dims=2", "--noexport", f"--run_dir={tmp_path / 'run'}"]
    main.main(["main", *words])
    pictures = {path.name for path in runs.RunDirectory(tmp_path / "run").figures.iterdir()}
    assert {"manifold.png", "posterior.png"} < pictures


@pytest.mark.slow
def test_another_architecture_runs_to_the_end(tmp_path, capsys):
    words = ["--inference=ladder", "--batch_norm", "--beta_warmup_epochs=1", "--activation=leaky_relu"]
    _run_to_the_end(words, tmp_path, capsys)
    encode = tf.saved_model.load(str(tmp_path / "run" / "saved_model")).signatures["encode"]
    assert encode(x=tf.zeros([3, 784]), seed=tf.constant([0, 1]))["mean"].shape == (3, 4)


def _run_to_the_end(words, folder, capsys):
    main.main(["main", *FLAGS, "--nojit", "--epochs=1", *words, f"--run_dir={folder / 'run'}"])
    assert "test NLL" in capsys.readouterr().out
    results = runs.RunDirectory(folder / "run").read_results()
    assert results.elbo <= results.iwae_bound.mean <= -results.nll.mean + 1.0


_GRID = [(objective, estimator) for estimator, served in compatibility.SERVES.items() for objective in served]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "estimator"), _GRID)
def test_every_objective_with_every_estimator_that_serves_it_runs_to_the_end(objective, estimator, tmp_path, capsys):
    parameters = ["--num_outer=2"] if objective in ("miwae", "piwae") else []
    parameters += ["--resampled=2"] if estimator == "resampled" else []
    words = [f"--objective={objective}", f"--gradient_estimator={estimator}", *parameters, "--noexport"]
    _run_to_the_end(words, tmp_path, capsys)
