import json
import shlex

import pytest
from fake_runs import write_run

from iwae_tf import paper, runs
from iwae_tf.experiment import parsing, stored
from iwae_tf.report import reported_run

FLAGS = [
    [],
    ["--objective=vae", "--k=1", "--seed=7"],
    ["--schedule=paper", "--stages=5", "--batch_size=20", "--ema_momentum=0"],
    ["--schedule=paper", "--learning_rate=3e-3"],
    ["--latent_dims=64,32,16", "--hidden_dims=64,64;32;16,16,16", "--inference=ladder"],
    ["--latent_dims= 100, 50", "--hidden_dims=200,200;100,100"],  # The paper's, written differently.
    ["--batch_norm", "--beta_warmup_epochs=20", "--activation=leaky_relu"],
    ["--objective=vr", "--alpha=-inf"],
    ["--objective=vr", "--alpha=-0.1", "--k=3"],
    ["--gradient_estimator=resampled", "--resampled=7", "--first_epochs=20", "--first_k=3"],
    ["--objective=miwae", "--num_outer=4", "--gradient_estimator=dreg"],
    ["--objective=ciwae", "--ciwae_beta=0.30000000000000004"],
    ["--dataset=omniglot28", "--data_dir=/a place/with 'quotes' and $HOME; rm -rf"],
    ["--dataset=tfds:mnist", "--train_split=train[:80%]", "--validation_split=train[80%:]", "--test_split=test"],
    ["--dataset=tfds:mnist", "--binarization=threshold", "--max_images=100"],
    ["--dataset=npz:--overwrite=1 `x`.npz", "--binarization=fixed"],
    ["--dataset=binarized_mnist", "--adam_epsilon=1e-08", "--clip_norm=5"],
    ["--init_from=runs/mnist_iwae_1l_k50_seed0", "--run_dir=x"],  # Where the command itself would put its run.
    ["--nll_samples=100", "--khat_images=7", "--binarization_seeds=3", "--train_nll_images=9"],
]


@pytest.mark.parametrize("words", FLAGS, ids=" ".join)
def test_the_command_repeats_a_run(words):
    options = parsing.parse(["main", *words])
    program, *given = shlex.split(stored.command(options))[2:]
    again = parsing.parse([program, *given])
    assert program == "iwae_tf.main"
    assert stored.run_flags(again) == stored.run_flags(options)
    assert stored.result_flags(again) == stored.result_flags(options)


@pytest.mark.parametrize("words", FLAGS[:-2], ids=" ".join)
def test_a_reported_run_has_the_options_of_its_run(words, tmp_path):
    evaluation = ["--nll_samples=100", "--khat_images=7", "--train_nll_images=9"]
    (run,) = reported_run.read([write_run(tmp_path / "run", *words, *evaluation, nll=90.0, images=False)])
    options = parsing.parse(["main", *words, *evaluation])
    assert stored.command(run.options) == stored.command(options)
    assert stored.result_flags(run.options) == stored.result_flags(options)


def test_the_command_has_only_the_flags_that_differ_from_their_default():
    assert stored.command(parsing.parse(["main"])) == "python -m iwae_tf.main"
    words = ["--k=5", "--epochs=100", "--batch_norm", "--khat_images=2", "--run_dir=elsewhere"]
    assert (
        stored.command(parsing.parse(["main", *words]))
        == "python -m iwae_tf.main --k=5 --batch_norm=True --khat_images=2"
    )


@pytest.mark.parametrize("value", [-1, 2.0, True, "7", None, [7]])
def test_invalid_evaluation_flags_are_replaced_by_their_default(value, tmp_path):
    path = write_run(tmp_path / "run", nll=90.0, images=False)
    results = json.loads((path / "results.json").read_text())
    results["flags"] |= {"khat_images": value, "train_nll_images": 3}
    (path / "results.json").write_text(json.dumps(results))
    (run,) = reported_run.read([path])
    assert (run.options.khat_images, run.options.train_nll_images) == (0, 3)


def test_the_grid_is_the_published_table():
    assert len(reported_run.GRID) == 10
    published = {(dims, k, objective) for _, dims, objective, k in paper.TABLE}
    assert published - set(reported_run.GRID) == {((50,), 1, "vae"), ((100, 50), 1, "vae")}


@pytest.mark.parametrize(
    ("words", "cell"),
    [
        (["--objective=vae", "--k=1"], ("mnist", (50,), 1, "iwae")),
        (["--dataset=omniglot28", "--latent_dims=100,50"], ("omniglot28", (100, 50), 50, "iwae")),
        (["--gradient_estimator=dreg"], ("mnist", (50,), 50, "iwae")),
        (["--k=7"], None),
        (["--latent_dims=20"], None),
        (["--hidden_dims=100"], None),
        (["--activation=relu"], None),
        (["--batch_norm"], None),
        (["--max_images=10"], None),
        (["--binarization=fixed"], None),
        (["--objective=ciwae"], None),
        (["--dataset=binarized_mnist"], ("binarized_mnist", (50,), 50, "iwae")),
    ],
)
def test_the_cell_of_a_run(words, cell, tmp_path):
    (run,) = reported_run.read([write_run(tmp_path / "run", *words, epochs=1)])
    assert run.cell == cell


def test_the_binarization_of_the_images_decides_the_cell(tmp_path):
    """Images that are binary anyway are not binarised by the flag."""
    for binarization, cell in (("fixed", None), ("stochastic", ("mnist", (50,), 50, "iwae"))):
        path = write_run(tmp_path / binarization, epochs=1, data={"binarization": binarization})
        (run,) = reported_run.read([path])
        assert run.cell == cell


def test_data_json_of_an_older_version_may_lack_fields(tmp_path):
    path = write_run(tmp_path / "run", epochs=1)
    (path / "data.json").write_text('{"image_shape": [28, 28]}')
    (run,) = reported_run.read([path])
    assert run.data.image_shape == (28, 28)
    assert run.cell == ("mnist", (50,), 50, "iwae")
    (path / "data.json").unlink()
    (run,) = reported_run.read([path])
    assert run.cell == ("mnist", (50,), 50, "iwae")


def test_the_differences_between_recipes(tmp_path):
    paths = [
        write_run(tmp_path / str(i), *words, nll=86.0, images=False)
        for i, words in enumerate(
            (["--epochs=9"], ["--schedule=paper", "--stages=2"], ["--epochs=9", "--batch_size=20"])
        )
    ]
    first, second, third = reported_run.differences(reported_run.group_seeds(reported_run.read(paths)))
    assert first == "schedule=cosine epochs=9 learning_rate=0.003 batch_size=100"
    assert second == "schedule=paper learning_rate=0.001 batch_size=100 stages=2"
    assert third == "schedule=cosine epochs=9 learning_rate=0.003 batch_size=20"
    assert reported_run.differences(reported_run.group_seeds(reported_run.read(paths[:1]))) == [""]


def test_what_is_no_run_is_skipped_with_a_note(tmp_path, capsys):
    run = write_run(tmp_path / "run", nll=86.0)
    (tmp_path / "table").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (found,) = reported_run.read([tmp_path / "table", run, tmp_path / "notes.txt"])
    assert found.path == str(run)
    notes = capsys.readouterr().err.splitlines()
    skipped = [tmp_path / name for name in ("table", "notes.txt")]
    assert notes == [f"iwae_tf: skipping {path}, which is not a run directory: it has no flags.txt" for path in skipped]


def test_runs_of_the_python_api_are_skipped_with_a_note(tmp_path, capsys):
    command = write_run(tmp_path / "command", nll=86.0)
    with runs.RunDirectory(tmp_path / "python") as directory:
        directory.claim({"trained_with": "iwae_tf.train"})
    assert [run.path for run in reported_run.read([tmp_path / "python", command])] == [str(command)]
    assert "skipping" in capsys.readouterr().err
