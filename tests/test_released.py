"""Released models: made of a finished run, found by their name, checked, evaluated again, and trained on."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import iwae_tf
from iwae_tf import ais, gradients, main, prune, release, runs
from iwae_tf.datasets import binarization
from iwae_tf.errors import UserError
from iwae_tf.experiment import build, stored
from iwae_tf.runs import released

DATA = pathlib.Path(__file__).parent / "data"
NAME = "digits_2l_k3"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """models/ with one released model, beside the data that it was trained on and its run."""
    folder = tmp_path_factory.mktemp("released")
    shutil.copytree(DATA / "run_c8fb7f7", folder / "run")
    shutil.copy(DATA / "digits.npz", folder)
    release.main(["models", f"--add={folder / 'run'}", f"--folder={folder / 'models'}", f"--name={NAME}"])
    return folder


@pytest.fixture
def models(model_folder, tmp_path, monkeypatch):
    """A copy of it, as if these were the models of the package; it is the current folder."""
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(released, "folder", lambda: tmp_path / "models")
    return tmp_path / "models"


def _weights(model):
    return [variable.numpy() for variable in model.variables_of_networks]


def test_a_release_has_no_checkpoints_and_is_found_by_its_name(models):
    files = {path.name for path in (models / NAME).iterdir()}
    assert files == {
        "flags.txt",
        "data.json",
        "history.csv",
        "results.json",
        "samples.npz",
        "test_log_likelihoods.npz",
        "weights.npz",
        "checksums.txt",
    }
    assert released.names() == [NAME]
    for ours, original in zip(_weights(iwae_tf.load(NAME)), _weights(iwae_tf.load("run")), strict=True):
        np.testing.assert_array_equal(ours, original)


@pytest.mark.slow
def test_its_weights_are_the_averages_of_a_run_that_averages(models):
    """They are not averaged again when they are loaded, and the optimizer of the run had other weights at its end."""
    command = ["main", "--dataset=npz:digits.npz", "--latent_dims=3", "--hidden_dims=4", "--k=2", "--epochs=3"]
    command += ["--batch_size=10", "--nll_samples=5", "--nojit", "--noexport", "--run_dir=averaged"]
    main.main([*command, "--ema_momentum=0.9"])
    release.main(["models", "--add=averaged"])
    model = iwae_tf.load("models/averaged")
    run = runs.RunDirectory("averaged")
    images, _ = build.load_images(stored.read_options(run))
    x = binarization.fixed_binarization(images.test, "test")
    with np.load(run.test_log_likelihoods) as arrays:
        np.testing.assert_allclose(iwae_tf.log_likelihood(model, x, 5).values, arrays["log_likelihood"], atol=1e-6)
    last = np.load(max(run.checkpoints.iterdir(), key=lambda path: path.stat().st_mtime))
    assert not np.allclose(last["networks/000"], _weights(model)[0], atol=1e-6)


def test_the_list_shows_the_numbers(models, capsys):
    release.main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{NAME}  npz:digits.npz  IWAE, 2 layers, k = 3, dreg  25.55 +- 1.61 (-L_50)  4+2"


def test_a_damaged_model_does_not_hide_the_others(models, capsys):
    shutil.copytree(models / NAME, models / "damaged")
    (models / "damaged" / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged/results\.json is not the file that was released"):
        release.main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(NAME)
    assert "damaged" not in lines[2]


def test_verify_measures_the_same_log_likelihoods(models, capsys):
    release.main(["models", f"--verify={NAME}", "--images=10"])
    assert "They agree." in capsys.readouterr().out
    release.main(["models", f"--verify={NAME}", "--images=10", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["agrees"], printed["num_images"]) == (True, 10)


def test_verify_refuses_other_weights(models):
    with np.load(models / NAME / "weights.npz") as arrays:
        changed = {name: array + 1.0 * (name == "networks/000") for name, array in arrays.items()}
    changed["steps"] = changed["steps"].astype(np.int64)
    np.savez(models / NAME / "weights.npz", **changed)
    released.write_checksums(models / NAME)
    with pytest.raises(UserError, match="more than chance explains"):
        release.main(["models", f"--verify={NAME}"])


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.zeros([20, 1]), np.full(20, np.nan), np.full(20, "x")], ids=["3", "20x1", "nan", "text"]
)
def test_verify_refuses_damaged_log_likelihoods(models, values):
    np.savez(models / NAME / "test_log_likelihoods.npz", log_likelihood=values)
    released.write_checksums(models / NAME)
    with pytest.raises(UserError, match=r"test_log_likelihoods\.npz is missing or damaged"):
        release.main(["models", f"--verify={NAME}", "--images=3"])


@pytest.mark.parametrize("change", ["damage", "remove"])
def test_a_file_that_differs_from_its_checksum_is_refused(models, change):
    weights = models / NAME / "weights.npz"
    if change == "damage":
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        with pytest.raises(UserError, match=r"weights\.npz is not the file that was released"):
            iwae_tf.load(NAME)
    else:
        (models / NAME / "history.csv").unlink()
        with pytest.raises(UserError, match=r"history\.csv is not the file that was released"):
            iwae_tf.load(NAME)


def test_a_file_without_checksum_is_refused(models):
    checksums = models / NAME / "checksums.txt"
    checksums.write_text("".join(line for line in checksums.open() if "weights" not in line))
    with pytest.raises(UserError, match=r"checksums\.txt is damaged: it lacks weights\.npz"):
        iwae_tf.load(NAME)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.npz", r"weights\.npz is not the file that was released"),
        ("checksums.txt", r"Cannot read .*checksums\.txt"),
    ],
)
def test_a_missing_file_is_named(models, name, message):
    (models / NAME / name).unlink()
    with pytest.raises(UserError, match=message):
        iwae_tf.load(NAME)


def test_a_release_removes_nothing_else(models):
    hidden = models / ".new"
    hidden.mkdir()
    (hidden / "file").touch()
    release.main(["models", "--add=run", "--name=new"])
    assert sorted(path.name for path in models.iterdir()) == [".new", NAME, "new"]
    assert (hidden / "file").exists()


def test_an_interrupted_release_leaves_nothing(models, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(released, "write_checksums", interrupt)
    with pytest.raises(KeyboardInterrupt):
        release.main(["models", "--add=run", "--name=new"])
    assert [path.name for path in models.iterdir()] == [NAME]


def test_a_measurement_by_annealing_renews_the_checksums(models):
    command = ["ais", f"--run_dir=models/{NAME}", "--num_images=2", "--num_chains=2", "--num_temperatures=2"]
    ais.main([*command, "--nll_samples=2"])
    released.check(models / NAME)
    (models / NAME / "ais.json").write_text("{}")
    with pytest.raises(UserError, match=r"ais\.json is not the file that was released"):
        released.check(models / NAME)


def test_damage_is_found_after_a_measurement_of_something_else(models):
    run = runs.RunDirectory(models / NAME)
    run.history.write_text("damaged")
    run.ais.write_text("{}")
    released.update_checksums(run, [run.ais, run.ais_arrays])
    with pytest.raises(UserError, match=r"history\.csv is not the file that was released"):
        released.check(models / NAME)


def test_a_copy_without_weights_is_refused(models):
    (models / NAME / "weights.npz").unlink()
    with pytest.raises(UserError, match=r"has results, but no weights: weights\.npz is missing"):
        iwae_tf.load(models / NAME)


def test_damaged_weights_in_a_copy_are_refused(models):
    (models / NAME / "weights.npz").write_bytes(b"no arrays")
    with pytest.raises(UserError, match=r"weights\.npz is damaged; copy the released model again"):
        iwae_tf.load(models / NAME)


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="mnist_iwae is neither a run directory nor a released model"):
        iwae_tf.load("mnist_iwae")


def test_a_copy_is_evaluated_again_with_the_flags_of_the_run(models, capsys):
    shutil.copytree(models / NAME, "copy")
    before = (models / NAME / "results.json").read_bytes()
    main.main(["main", "--run_dir=copy", "--notrain", "--evaluate", "--nll_samples=50", "--nojit", "--noexport"])
    printed, notes = capsys.readouterr()
    assert "25.55 +- 1.61           4+2" in printed
    assert "is finished" not in notes
    assert pathlib.Path("copy/results.json").read_bytes() != before  # It has today's versions.
    assert (models / NAME / "results.json").read_bytes() == before
    released.check(pathlib.Path("copy"))


def test_its_training_is_not_continued(models):
    shutil.copytree(models / NAME, "copy")
    command = ["main", "--dataset=npz:digits.npz", "--schedule=paper", "--k=3", "--latent_dims=4,2"]
    command += ["--hidden_dims=8;6", "--batch_size=10", "--gradient_estimator=dreg", "--nojit", "--run_dir=copy"]
    with pytest.raises(UserError, match="copy is a released model, whose training cannot be continued"):
        main.main([*command, "--stages=3"])
    assert pathlib.Path("copy/results.json").exists()


def test_a_new_run_starts_from_a_released_model(models, capsys):
    command = ["main", "--dataset=npz:digits.npz", "--k=5", "--latent_dims=4,2", "--hidden_dims=8;6", "--nojit"]
    command += ["--batch_size=10", "--epochs=1", "--learning_rate=1e-30", "--ema_momentum=0", "--noevaluate"]
    main.main([*command, f"--init_from={NAME}", "--noexport", "--run_dir=new"])
    for ours, original in zip(_weights(iwae_tf.load("new")), _weights(iwae_tf.load(NAME)), strict=True):
        np.testing.assert_allclose(ours, original, atol=1e-6)


@pytest.mark.parametrize("command", [ais.main, prune.main, gradients.main])
def test_measurements_are_not_added_to_the_package(models, command):
    with pytest.raises(UserError, match=f"{NAME} is a released model, and results are written to the run: copy"):
        command(["command", f"--run_dir={NAME}"])


def test_other_settings_do_not_invite_to_overwrite_it(models):
    with pytest.raises(UserError, match="it is a released model; choose another run directory\\."):
        main.main(["main", f"--run_dir=models/{NAME}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images=5"], "--images has no effect without --verify"),
        (["--name=x"], "--name has no effect without --add"),
        (["--add=run", "--verify=x"], "--add and --verify are two steps"),
        (["--add="], "--add is empty; give a finished run"),
        (["--verify="], "--verify is empty; give the name of a released model"),
        (["--add=nothing"], "nothing is not a run directory"),
        (["--add=run", "--name=a/b"], "--name=a/b must have 1 to 100 letters"),
        (["--add=run", "--name=.."], r"--name=\.\. must have 1 to 100 letters"),
        (["--add=run", "--name=" + 300 * "x"], "must have 1 to 100 letters"),
        (["--add=run", f"--name={NAME}"], "exists; remove it, or give another --name"),
        (["--verify=nothing"], "nothing is neither a run directory nor a released model"),
    ],
)
def test_bad_flags_are_refused(models, words, message):
    with pytest.raises(UserError, match=message):
        release.main(["models", *words])


def test_an_unfinished_run_is_not_released(models):
    (models.parent / "run" / "results.json").unlink()
    with pytest.raises(UserError, match="is not evaluated yet"):
        release.main(["models", "--add=run", "--name=new"])
