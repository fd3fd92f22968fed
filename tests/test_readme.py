"""The Python examples of the README and of docs/ run as printed, and what the pages refer to exists."""

import dataclasses
import json
import pathlib
import re

import pytest

import iwae_tf
from iwae_tf import paper, runs
from iwae_tf.report import folder, pictures, reported_run, rows, text

CHECKOUT = pathlib.Path(__file__).parent.parent
README = CHECKOUT / "README.md"
PAGES = [README, CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
# A text in each example; every example has a test below.
EXAMPLES = ("trained = iwae_tf.train(", "ConvolutionalEncoder", "model.fit(", "load_model(", "saved_model.load")
EXAMPLES += ("wine.mask(", "estimator.transform(")


def _blocks():
    pages = (page.read_text() for page in PAGES)
    return [block for page in pages for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)]


def _block(containing):
    (block,) = [block for block in _blocks() if containing in block]
    return block


@pytest.fixture
def few_images(monkeypatch):
    """`iwae_tf.load_dataset` returns the first 1,000 images of each split."""
    images = iwae_tf.load_dataset("mnist").first(1000)
    monkeypatch.setattr("iwae_tf.api.load_dataset", lambda name: images)


def test_every_example_has_a_test():
    assert [sum(text in block for text in EXAMPLES) for block in _blocks()] == [1] * len(EXAMPLES)


def test_the_readmes_example(tmp_path, monkeypatch, capsys, few_images):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(_block("trained = iwae_tf.train("), names)
    assert (names["trained"].steps, names["trained"].epochs) == (20, 2)
    assert names["result"].values.shape == (100,)
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == f"20 steps, NLL {-names['result'].mean:.2f} +- {names['result'].stderr:.2f} nats"
    rows = runs.RunDirectory("runs/python").read_history()
    assert rows[1]["train_iwae_bound"] > rows[0]["train_iwae_bound"]


@pytest.mark.slow
def test_own_layers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(_block("ConvolutionalEncoder"), {})
    assert "NLL" in capsys.readouterr().out.splitlines()[-1]
    rows = runs.RunDirectory("runs/convolutional").read_history()
    assert rows[1]["train_iwae_bound"] > rows[0]["train_iwae_bound"]


@pytest.mark.slow
def test_keras_fit_and_the_saved_file(tmp_path, monkeypatch, capsys, few_images):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(_block("model.fit("), names)
    history = names["history"].history
    assert history["loss"][1] < history["loss"][0]
    exec(_block("load_model("), names)
    assert "L_500" in capsys.readouterr().out.splitlines()[-1]
    assert names["result"].mean > -float(history["val_loss"][0]) - 20.0
    assert names["between"].shape == (8, 784)


def test_saved_model(tmp_path, monkeypatch, capsys):
    from iwae_tf import export, models, networks

    model = models.ImportanceWeightedAutoencoder(*networks.paper_networks(784, (2,), ((5,),)))
    model(pytest.importorskip("tensorflow").zeros([1, 784]))
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    export.export(model, tmp_path / "runs" / "quickstart" / "saved_model")
    monkeypatch.chdir(tmp_path)
    exec(_block("saved_model.load"), {})
    assert "log_likelihood" in capsys.readouterr().out


def test_the_readme_is_short():
    assert len(README.read_bytes()) < 9000


def _anchor(heading):
    """What a link calls a heading: without its punctuation."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name
        assert path.is_file(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in [_anchor(heading) for heading in headings], target


def test_from_a_csv_file_to_scores_and_imputations(tmp_path, monkeypatch):
    """The commands of docs/own_data.md, with a shorter training."""
    from iwae_tf import impute, main, score

    text = (CHECKOUT / "docs" / "own_data.md").read_text()
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) if "iwae_tf.score" in block]
    lines = [line.split() for line in block.splitlines()]
    assert [line[2] for line in lines] == ["iwae_tf.main", "iwae_tf.score", "iwae_tf.impute", "iwae_tf.impute"]
    monkeypatch.chdir(tmp_path)
    exec(_block("wine.mask("), {})
    pathlib.Path("flags").symlink_to(CHECKOUT / "flags")
    shorter = ["--epochs=2", "--nojit", "--noexport", "--nll_samples=20"]
    main.main(["main", *lines[0][3:], *shorter])
    for command, line in zip((score, impute, impute), lines[1:], strict=True):
        command.main(["command", *line[3:], "--num_samples=20"])
    heads = {name: pathlib.Path(name).read_text().splitlines() for name in ("scores.csv", "filled.csv", "draws.csv")}
    assert [len(head) for head in heads.values()] == [179, 179, 5 * 178 + 1]
    assert "nan" not in heads["filled.csv"][1:]


def test_the_estimator_of_scikit_learn(capsys):
    names = {}
    exec(_block("estimator.transform("), names)
    assert names["codes"].shape == (178, 4)
    assert "imputed" in capsys.readouterr().out


def test_the_index_lists_every_page():
    index = (CHECKOUT / "docs" / "README.md").read_text()
    readme = README.read_text()
    for page in (CHECKOUT / "docs").glob("*.md"):
        assert page.name == "README.md" or (f"({page.name})" in index and f"(docs/{page.name})" in readme)


def test_the_results_are_those_of_the_released_models():
    table = dict(re.findall(r"^\| `(mnist_\w+)`[^|]*\| (.*) \|$", README.read_text(), re.MULTILINE))
    assert set(table) == {path.name for path in (CHECKOUT / "models").glob("mnist_*")}
    for name, row in table.items():
        results = json.loads((CHECKOUT / "models" / name / "results.json").read_bytes())
        nll, published = results["nll"], paper.TABLE[_cell(name)]
        assert row.split(" | ") == [
            f"{nll['mean']:.2f} +- {nll['stderr']:.2f}",
            f"{published.nll:.2f}",
            "+".join(map(str, results["active_units"]["per_layer"])),
            "+".join(map(str, published.active_units)),
        ]


def _cell(name):
    """The cell of the published table that a released model's name states."""
    dataset, objective, layers, k = name.split("_")
    return dataset, {"1l": (50,), "2l": (100, 50)}[layers], objective, int(k.removeprefix("k"))


# Runs on record that are not released.
_WITHOUT_WEIGHTS = pathlib.Path("models") / "without_weights"


def test_the_results_page_is_the_report_on_the_released_models(monkeypatch):
    """`iwae-tf report models/* models/without_weights/* --out=docs/results.md`, without drawing."""
    monkeypatch.chdir(CHECKOUT)
    released = reported_run.read([*sorted(pathlib.Path("models").glob("*")), *sorted(_WITHOUT_WEIGHTS.glob("*"))])
    groups = reported_run.group_seeds(released)
    place = folder.Place.of("docs/results.md")
    shown = pictures.report_pictures(released, groups)
    assert place.text.read_text() == text.report_text(rows.contents(released, groups), shown, place.link)
    assert {path.name for path in place.pictures.iterdir()} == {picture.name for picture in shown if picture.name}


def test_every_flag_that_is_mentioned_exists():
    from iwae_tf import ais, gradients, impute, prune, release, score
    from iwae_tf.experiment.flags import Options
    from iwae_tf.report.command import ReportOptions

    kinds = (Options, ReportOptions, prune.PruneOptions, gradients.GradientOptions, ais.AnnealingOptions)
    kinds += (score.ScoreOptions, impute.ImputeOptions, release.ReleaseOptions)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    # Flags of the parser, of iwae-tf, and of the benchmarks.
    known |= {"help", "flagfile", "version", "verbosity", "seconds", "layers", "growth_k", "repeats"}
    for page in PAGES:
        mentioned = set(re.findall(r"--([a-z]\w*)", page.read_text()))
        assert not {name for name in mentioned if name.removeprefix("no") not in known and name not in known}


def test_every_flagfile_and_module_that_is_mentioned_exists():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"flags/[\w/]+\.flags|iwae_tf/[\w/]+\.py|tests/\w+\.py", text):
            assert (CHECKOUT / name).is_file(), name
        for module in re.findall(r"python -m ((?:iwae_tf|benchmarks)[\w.]*)", text):
            path = CHECKOUT.joinpath(*module.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
