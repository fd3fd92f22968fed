"""What TensorBoard reads of a run, through TensorBoard's own reader."""

import dataclasses
import re

import fake_runs
import matplotlib.image
import numpy as np
import pytest
import small_model
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from iwae_tf import datasets, runs
from iwae_tf.experiment import board, parsing, stored

NUM_TEST = 11


@pytest.fixture(scope="module")
def model():
    model = small_model.build(latent_dims=(3, 2))
    model(tf.zeros([1, small_model.EVENT]))
    return model


@pytest.fixture
def options():
    return parsing.parse(["main", "--k=5", "--latent_dims=3,2", "--hidden_dims=6;5", "--learning_rate=0.25"])


@pytest.fixture
def run(options, tmp_path):
    with runs.RunDirectory(tmp_path / "run") as run:
        run.claim(stored.run_flags(options))
        yield run


def _dataset():
    pixels = np.random.default_rng(0).integers(0, 256, [NUM_TEST, small_model.EVENT], np.uint8)
    return datasets.Dataset(pixels, pixels, pixels, (2, 4), test_labels=np.arange(NUM_TEST) % 3)


def _write_results(options, run, model, dataset, nll=90.0):
    x, _, _ = small_model.data(NUM_TEST)
    results = fake_runs.results(options, nll, 100, units=[2, 1], data={})
    board.write_results(options, results, model, dataset, x, np.linspace(-100.0, -80.0, NUM_TEST), run)


def _read(run):
    accumulator = EventAccumulator(str(run.test_events))
    accumulator.Reload()
    return accumulator


def _values(accumulator):
    """Tag -> [(step, value)]."""
    return {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto).tolist()) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def _session(accumulator, tag):
    content = accumulator.SummaryMetadata(tag).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content)


def test_the_settings_of_a_run(options, run):
    board.write_settings(options, run)
    accumulator = _read(run)
    session = _session(accumulator, metadata.SESSION_START_INFO_TAG)
    hyperparameters = {name: value.string_value or value.number_value for name, value in session.hparams.items()}
    assert hyperparameters == {
        "estimator": "standard",
        "k": 5,
        "latent_dims": "3,2",
        "objective": "iwae",
        "rate": 0.25,
        "seed": 0,
        "training batch": 100,
        "training data": "mnist",
        "training epochs": 100,
    }
    assert session.group_name.startswith("run (")
    # TensorBoard shows the first five in this order.
    assert sorted(hyperparameters)[:5] == ["estimator", "k", "latent_dims", "objective", "rate"]
    values = _values(accumulator)
    command = "python -m iwae_tf.main --k=5 --latent_dims=3,2 '--hidden_dims=6;5' --learning_rate=0.25"
    assert values["command"] == [(0, f"    {command}".encode())]
    assert b"    --gradient_estimator=standard\n" in values["flags"][0][1]


def test_the_layout_shows_every_curve_once(options, run, model):
    board.write_settings(options, run)
    _write_results(options, run, model, _dataset())
    ((_, content),) = _values(_read(run))["custom_scalars__config__"]
    layout = layout_pb2.Layout.FromString(content)
    expressions = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    tags = ["iwae_bound", "elbo", "nll", "distortion", "rate", "rate/layer_1", "learning_rate"]
    tags += ["effective_sample_size", "active_units/layer_2"]
    matching = [[e for e in expressions if re.match(e, tag)] for tag in tags]
    assert [len(found) for found in matching] == [1] * len(tags)


def test_the_results_of_a_run(options, run, model):
    board.write_settings(options, run)
    _write_results(options, run, model, _dataset())
    accumulator = _read(run)
    scalars = {tag: values for tag, values in _values(accumulator).items() if isinstance(values[0][1], float)}
    assert scalars == {
        "nll": [(0, 90.0)],
        "elbo": [(0, -92.0)],
        "iwae_bound": [(0, -91.0)],
        "active_units/layer_1": [(0, 2.0)],
        "active_units/layer_2": [(0, 1.0)],
    }
    experiment = accumulator.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    metrics = [info.name.tag for info in metadata.parse_experiment_plugin_data(experiment).metric_infos]
    assert metrics == ["nll", "active_units/layer_1", "active_units/layer_2"]


def test_a_second_evaluation_replaces_the_first(options, run, model):
    for nll in (91.0, 90.0):
        board.write_settings(options, run)
        _write_results(options, run, model, _dataset(), nll)
    accumulator = _read(run)
    assert _values(accumulator)["nll"] == [(0, 90.0)]
    assert all(len(values) == 1 for values in _values(accumulator).values())
    assert len(list(run.test_events.glob("*tfevents*"))) == 2
    run.discard_results()
    assert set(_values(_read(run))) >= {"command", "flags"}
    assert "nll" not in _values(_read(run))


def test_the_projector(options, run, model):
    dataset = _dataset()
    _write_results(options, run, model, dataset)
    config = text_format.Parse((run.test_events / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [embedding.tensor_path for embedding in config.embeddings] == [
        "posterior_means_layer_1.tsv",
        "posterior_means_layer_2.tsv",
    ]
    for embedding, units in zip(config.embeddings, (3, 2), strict=True):
        assert np.loadtxt(run.test_events / embedding.tensor_path).shape == (NUM_TEST, units)
        assert list(embedding.sprite.single_image_dim) == [4, 2]
        header, *rows = (run.test_events / embedding.metadata_path).read_text().splitlines()
        assert (header, rows[4], len(rows)) == ("label\tnumber\tnll", "1\t4\t92.00", NUM_TEST)
    sprite = matplotlib.image.imread(run.test_events / "sprite.png")[..., 0]
    assert sprite.shape == (3 * 2, 4 * 4)  # The eleven images are in rows of four.
    np.testing.assert_allclose(sprite[2:4, 4:8], dataset.test[5].reshape(2, 4) / 255.0, atol=1e-6)


def test_the_sprite_of_large_images_is_bounded(options, run, model, monkeypatch):
    monkeypatch.setattr(board, "_MOST_PIXELS", 8)
    _write_results(options, run, model, _dataset())
    assert max(matplotlib.image.imread(run.test_events / "sprite.png").shape) <= 8


def test_a_table_has_no_sprite_and_no_labels(options, run, model):
    rows = np.random.default_rng(0).integers(0, 2, [NUM_TEST, small_model.EVENT]).astype(np.float32)
    columns = tuple("abcdefgh")
    _write_results(options, run, model, datasets.Dataset(rows, rows, rows, (small_model.EVENT,), columns))
    assert "sprite" not in (run.test_events / "projector_config.pbtxt").read_text()
    assert (run.test_events / "metadata.tsv").read_text().startswith("number\tnll\n0\t100.00\n")


def test_names_of_files_that_are_not_utf8(options, run):
    board.write_settings(dataclasses.replace(options, dataset="npz:\udc80.npz"), run)
    assert b"npz:?.npz" in _values(_read(run))["flags"][0][1]
