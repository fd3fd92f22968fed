"""The README's Python runs as it stands there."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"


def _block(containing):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return block


def test_own_layers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(_block("ConvolutionalEncoder"), names)
    rows = names["run"].read_history()
    assert rows[1]["train_iwae_bound"] > rows[0]["train_iwae_bound"]


def test_saved_model(tmp_path, monkeypatch, capsys):
    from iwae_tf import export, models, networks

    model = models.ImportanceWeightedAutoencoder(*networks.paper_networks(784, (2,), ((5,),)))
    model(pytest.importorskip("tensorflow").zeros([1, 784]))
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    export.export(model, tmp_path / "runs" / "quickstart" / "saved_model")
    monkeypatch.chdir(tmp_path)
    exec(_block("saved_model.load"), {})
    assert "log_likelihood" in capsys.readouterr().out
