"""Runs in words, and whether they are finished."""

import msgspec
import pytest
from fake_runs import RESULTS, results, write_run

from iwae_tf import paper, runs
from iwae_tf.experiment import finished, parsing, summary


def parse(*words):
    return parsing.parse(["main", *words])


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ([], "IWAE, 1 layer, k = 50"),
        (["--objective=vae", "--k=1", "--latent_dims=100,50"], "VAE, 2 layers, k = 1"),
        (["--inference=ladder", "--latent_dims=3,2,1", "--hidden_dims=9;8;7"], "Ladder IWAE, 3 layers, k = 50"),
        (
            ["--objective=miwae", "--num_outer=4", "--k=5", "--gradient_estimator=dreg"],
            "MIWAE, 1 layer, k = 4 x 5, dreg",
        ),
    ],
)
def test_titles(words, title):
    assert summary.title(parse(*words)) == title


def test_the_cell_depends_on_how_the_images_were_binarised():
    place = ("mnist", (50,), "iwae", 50)
    assert place in paper.TABLE
    assert summary.cell(parse()) == summary.cell(parse(), "stochastic") == place
    assert summary.cell(parse(), "fixed") is None
    assert summary.cell(parse("--binarization=fixed")) is None
    assert summary.cell(parse("--binarization=fixed"), "stochastic") == place
    assert summary.cell(parse("--dataset=binarized_mnist")) == ("binarized_mnist", *place[1:])


def test_results_of_a_published_cell_are_shown_next_to_the_published_ones():
    options = parse("--k=5")
    printed = summary.table(options, results(options, nll=86.0, epochs=100, data={"binarization": "stochastic"}))
    assert printed.splitlines() == [
        f"{'':<39} {'test NLL (-L_5,000)':<24}active units",
        f"{'IWAE, 1 layer, k = 5':<39} {'86.00 +- 0.25':<24}20",
        f"{'published (Burda et al.)':<39} {'85.54':<24}22",
        "100 of the paper's 3,280 epochs (3.0%), 3 min 20 s of training; 10,000 test images of mnist",
    ]


def test_results_of_an_older_version_with_one_epoch_and_one_image():
    plain = RESULTS | {"data": {}, "training": {"epochs": 1, "seconds": 1.5}}
    printed = summary.table(parse("--k=7"), msgspec.convert(plain, runs.Results))
    assert printed.splitlines()[-1] == "1 epoch, 2 s of training; 1 test image of mnist"
    assert "+-" not in printed


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ([], None),
        ([-100.0], None),
        ([-100.0, -90.0, -90.05], None),
        ([-100.0, -90.0, -90.5], "-90.00 nats after epoch 2 of 3, and is -90.50 now; try fewer epochs (--epochs=2)"),
        ([-3.0, -2.0, -2.01, -2.015], None),
        ([-3.0, -2.0, -2.01, -2.03], "-2.00 nats after epoch 2 of 4, and is -2.03 now"),
    ],
)
def test_a_validation_bound_that_has_fallen_is_reported(bounds, words):
    text = summary.overfitting([{"validation_iwae_bound": bound} for bound in bounds])
    assert text is None if words is None else words in text


@pytest.mark.parametrize(("number", "text"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (1000, "1,000 epochs")])
def test_counts_agree_with_their_noun(number, text):
    assert summary.counted(number, "epoch") == text


def test_a_run_is_finished_once_everything_that_is_asked_for_is_stored(tmp_path):
    options = parse("--epochs=3", "--noexport")
    run = runs.RunDirectory(write_run(tmp_path / "run", "--epochs=3", nll=86.0, images=False))
    assert finished.finished_results(options, run) == finished.stored_results(options, run) == run.read_results()
    exported = parse("--epochs=3")
    assert finished.finished_results(exported, run) is None
    run.saved_model.mkdir()
    assert finished.finished_results(exported, run) == run.read_results()
    run.data.unlink()
    assert finished.finished_results(options, run) is None
    assert finished.stored_results(options, run) == run.read_results()


@pytest.mark.parametrize("words", [["--epochs=4"], ["--k=5"], ["--nll_samples=7"], ["--khat_images=1"]])
def test_results_of_other_options_are_not_returned(words, tmp_path):
    run = runs.RunDirectory(write_run(tmp_path / "run", "--epochs=3", nll=86.0, images=False))
    assert finished.stored_results(parse("--epochs=3"), run) is not None
    assert finished.stored_results(parse("--epochs=3", *words), run) is None


def test_results_of_a_shorter_training_are_not_returned(tmp_path):
    run = runs.RunDirectory(write_run(tmp_path / "run", "--epochs=3", nll=86.0, epochs=2, images=False))
    assert finished.stored_results(parse("--epochs=3"), run) is None


def _stored(folder):
    run = runs.RunDirectory(write_run(folder / "run", "--epochs=3", nll=86.0, images=False))
    return parse("--epochs=3"), run


def test_results_of_another_checkpoint_are_not_returned(tmp_path):
    options, run = _stored(tmp_path)
    results = run.read_results()
    run.write_results(msgspec.structs.replace(results, training=msgspec.structs.replace(results.training, steps=20)))
    run.checkpoints.mkdir()
    for step, expected in ((20, True), (30, False)):
        (run.checkpoints / f"ckpt-{step}.npz").touch()
        assert (finished.stored_results(options, run) is not None) == expected


def test_a_run_whose_figures_were_interrupted_is_not_finished(tmp_path):
    options, run = _stored(tmp_path)
    run.figures.mkdir()
    assert finished.stored_results(options, run) is None
    (run.figures / "bounds.png").touch()
    assert finished.stored_results(options, run) is not None


def test_a_run_without_results_is_not_finished(tmp_path):
    run = runs.RunDirectory(write_run(tmp_path / "run", "--epochs=3"))
    assert finished.stored_results(parse("--epochs=3"), run) is None
