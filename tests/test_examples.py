"""The examples show on little data what they are about, and the notebook holds the outputs of its cells."""

import ast
import importlib.util
import json
import pathlib
import re
import subprocess

import numpy as np
import pandas as pd
import pytest

import iwae_tf

FOLDER = pathlib.Path(__file__).parent.parent / "examples"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".py", ".ipynb"))
NOTEBOOK = FOLDER / "quickstart.ipynb"
NLL = r"NLL ([\d.]+) \+- ([\d.]+) nats"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Returns a function that imports an example, to run in an empty folder without XLA.

    The commands of the package run in this process, as importing TensorFlow takes seconds.
    """
    start_process = subprocess.run

    def run(words, check):
        assert check
        if words[1] != "-m":
            return start_process(words, check=True)
        module = importlib.import_module(words[2])
        return module.main([*words[2:], *(["--nojit"] if words[2] == "iwae_tf.main" else [])])

    def imported(name):
        spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    plan = iwae_tf.Plan
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(iwae_tf, "Plan", lambda **kwargs: plan(**kwargs, jit=False))
    return imported


def _numbers(pattern, text):
    """The numbers of the only place that the pattern matches."""
    (match,) = re.finditer(pattern, text)
    return [float(number) for number in match.groups()]


def test_every_example_is_listed_and_tested():
    links = re.findall(r"\]\(([^)]+)\)", (FOLDER / "README.md").read_text())
    assert all((FOLDER / link).is_file() for link in links)
    assert {path.name for path in FILES} <= set(links)
    assert {f"test_{path.stem}" for path in FILES} <= set(globals())


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=lambda path: path.stem)
def test_scripts_are_short_and_say_how_to_run_them(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    assert f"    python examples/{path.name}\n" in ast.get_docstring(ast.parse(text), clean=False)


@pytest.mark.slow
def test_keras_fit(example, capsys):
    example("keras_fit").main(num_images=200, epochs=2, num_samples=10)
    printed = capsys.readouterr().out
    first, best = _numbers(r"2 epochs: validation loss ([\d.]+) after the first, ([\d.]+) at best", printed)
    (loaded,) = _numbers(r"loaded file ([\d.]+)", printed)
    assert best < first
    assert loaded == pytest.approx(best, abs=0.01)
    log = pd.read_csv("runs/examples/keras_fit/log.csv")
    assert log["val_loss"].min() == pytest.approx(best, abs=0.01)
    assert 100.0 < _numbers(NLL, printed)[0] < 544.0


@pytest.mark.slow
def test_custom_encoder(example, capsys):
    module = example("custom_encoder")
    module.main(num_images=200, epochs=1, num_samples=10)
    printed = capsys.readouterr().out
    dense, _ = _numbers("fully connected encoder: " + NLL, printed)
    convolutional, _ = _numbers("convolutional encoder: " + NLL, printed)
    gain, stderr = _numbers(r"difference ([+-][\d.]+) \+- ([\d.]+) nats", printed)
    assert gain == pytest.approx(dense - convolutional, abs=0.011)
    assert stderr > 0.0
    loaded = iwae_tf.load("runs/examples/custom_encoder/convolutional")
    assert type(loaded.inference.stochastic_layers[0]) is module.ConvolutionalEncoder


@pytest.mark.slow
def test_compare_estimators(example, capsys):
    module = example("compare_estimators")
    module.main(num_images=200, epochs=1, num_samples=10)
    rows = re.findall(
        r"^(\w+) +([\d.]+) \+- [\d.]+   ([+-][\d.]+) \+- ([\d.]+) ", capsys.readouterr().out, re.MULTILINE
    )
    assert [row[0] for row in rows] == list(module.ESTIMATORS)
    nll, difference, stderr = np.array([row[1:] for row in rows], float).T
    np.testing.assert_allclose(difference, nll - nll[0], atol=0.011)
    assert difference[0] == stderr[0] == 0.0
    assert (stderr[1:] > 0.0).all()
    loaded = [iwae_tf.load(f"runs/examples/estimators/{name}") for name in module.ESTIMATORS]
    assert [model.gradient_estimator for model in loaded] == list(module.ESTIMATORS)


@pytest.mark.slow
def test_csv_with_gaps(example, capsys):
    module = example("csv_with_gaps")
    module.main(epochs=40, num_samples=50)
    printed = capsys.readouterr().out
    (by_means,) = _numbers(r"error of column means: ([\d.]+)", printed)
    (by_model,) = _numbers(r"error of the model: ([\d.]+)", printed)
    assert by_means == pytest.approx(1.0, abs=0.05)
    assert by_model < 0.9 * by_means
    table, filled = (pd.read_csv(module.FOLDER / name) for name in ("table.csv", "filled.csv"))
    assert table.isna().to_numpy().mean() == pytest.approx(0.5, abs=0.02)
    assert not filled.isna().to_numpy().any()
    np.testing.assert_allclose(table, filled[table.columns].where(table.notna()), rtol=1e-6)


@pytest.mark.slow
def test_diagnostics(example, capsys):
    module = example("diagnostics")
    module.main(num_images=200, epochs=1, num_samples=40)
    printed = capsys.readouterr().out
    results = json.loads((module.RUN_DIR / "results.json").read_text())
    nll, _ = _numbers("good is the model. " + NLL, printed)
    assert nll == pytest.approx(results["nll"]["mean"], abs=0.01)
    assert 1.0 <= _numbers(r"rests on ([\d.]+) of 40 samples", printed)[0] <= 40.0
    (percent,) = _numbers(r"(\d+)% of the images: their", printed)
    assert percent == pytest.approx(100.0 * results["k_hat"]["share_above"], abs=0.5)
    assert _numbers(r"(\d+) of 50 are active", printed) == results["active_units"]["per_layer"]
    assert (module.RUN_DIR / "figures" / "worst_images.png").is_file()


@pytest.mark.slow
def test_serving(example, capfd):
    module = example("serving")
    module.main(num_images=200, epochs=1, num_samples=1000)
    printed = capfd.readouterr().out
    assert "client: imported iwae_tf: False" in printed
    in_a_batch, alone = _numbers(r"image 3 is (-[\d.]+) in a batch, and (-[\d.]+) alone", printed)
    assert alone == pytest.approx(in_a_batch, abs=1e-3)
    here, there = _numbers(r"log p\(x\): (-[\d.]+) in memory, (-[\d.]+) served", printed)
    assert there == pytest.approx(here, abs=2.0)
    for line in (r"largest difference", "TensorFlow Lite:"):
        differences = _numbers(line + r" of posterior means ([\d.e+-]+), of decoded pixels ([\d.e+-]+)\n", printed)
        assert max(differences) < 1e-4
    with np.load(module.FOLDER / "answers.npz") as answers:
        assert answers["decoded"].shape == (100, 784)
        assert np.ptp(answers["mean"], axis=0).max() > 0.0


def test_serving_client():
    """It cannot be run without a served model, which `test_serving` has; nor does it need this package."""
    tree = ast.parse((FOLDER / "serving_client.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"pathlib", "sys", "numpy", "tensorflow"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def _cells(notebook=NOTEBOOK):
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def _texts(cells):
    """What the cells print, in one text."""
    outputs = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "stream"]
    return "".join("".join(output["text"]) for output in outputs)


def test_the_notebook_was_run_from_top_to_bottom():
    cells = _cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    notes = [output["text"] for output in outputs if output.get("name") == "stderr"]
    # Progress, and no messages of TensorFlow.
    assert all(line.startswith(("training", "epoch")) for text in notes for line in "".join(text).splitlines())
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == sum("show(" in "".join(cell["source"]) for cell in cells)
    assert _numbers(NLL, _texts(cells))[0] < 130.0


def test_the_notebook_is_small_and_tells_nothing_of_a_machine():
    notebook = json.loads(NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 500_000
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    assert not re.search(r"/(home|root|tmp|Users|usr|opt|work)/|[A-Z]:\\\\", json.dumps(notebook))


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch, capsys):
    """The cells run on less data; a slow test runs them as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    smaller = {"NUM_IMAGES": 200, "EPOCHS": 2, "NUM_TEST_IMAGES": 20, "NUM_SAMPLES": 20}
    names = {}
    for cell in _cells():
        source = "".join(cell["source"])
        for name, value in smaller.items():
            source = re.sub(rf"^{name} = .*$", f"{name} = {value}", source, flags=re.MULTILINE)
        exec(source, names)
    assert {name: names[name] for name in smaller} == smaller
    nll, stderr = _numbers(NLL, capsys.readouterr().out)
    assert 100.0 < nll < 544.0
    assert stderr > 0.0
    assert len(names["history"]) == 2


@pytest.mark.slow
def test_the_notebook_holds_the_outputs_of_its_cells(tmp_path, monkeypatch):
    """What examples/README.md says renews them gives the same again."""
    (renew,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / NOTEBOOK.name).write_bytes(NOTEBOOK.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(renew, {})
    stored, now = _cells(), _cells(tmp_path / NOTEBOOK.name)
    assert [cell["source"] for cell in now] == [cell["source"] for cell in stored]
    kinds = [[[output["output_type"] for output in cell["outputs"]] for cell in cells] for cells in (stored, now)]
    assert kinds[0] == kinds[1]
    nll, stderr = _numbers(NLL, _texts(stored))
    # Other machines round differently, which training amplifies; other code would move it by more.
    assert _numbers(NLL, _texts(now))[0] == pytest.approx(nll, abs=stderr)
