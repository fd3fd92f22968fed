"""The public API: `import iwae_tf`."""

import inspect
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

import iwae_tf
from iwae_tf import datasets, layers, main, runs
from iwae_tf.errors import UserError

EVENT = 6


@pytest.fixture
def images():
    """Grey images of 2 x 3 pixels."""
    rng = np.random.default_rng(0)
    train, validation, test = (rng.integers(0, 256, [n, EVENT], np.uint8) for n in (24, 5, 7))
    return datasets.Dataset(train, validation, test, event_shape=(2, 3))


def _model(seed=0, **kwargs):
    bias = layers.output_bias_from_mean(np.full(EVENT, 0.5))
    networks = iwae_tf.paper_networks(EVENT, (3, 2), ((5,), (4,)), output_bias=bias, seed=seed)
    return iwae_tf.ImportanceWeightedAutoencoder(*networks, num_samples=4, seed=seed, **kwargs)


def _plan(**kwargs):
    return iwae_tf.Plan(**{"epochs": 2, "batch_size": 8, "jit": False, **kwargs})


def _binary(num_images=5):
    return np.random.default_rng(1).integers(0, 2, [num_images, EVENT]).astype(np.float32)


@pytest.mark.parametrize("name", iwae_tf.__all__)
def test_every_name_of_the_api_is_there(name):
    assert getattr(iwae_tf, name) is not None
    assert name in dir(iwae_tf)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'iwae_tf' has no attribute 'trian'"):
        iwae_tf.trian  # noqa: B018


@pytest.mark.parametrize("name", ["load", "load_dataset", "log_likelihood", "paper_networks", "train"])
def test_the_functions_have_type_hints_and_docstrings(name):
    function = getattr(iwae_tf, name)
    hints = typing.get_type_hints(function)
    assert set(inspect.signature(function).parameters) - {"layer_kwargs"} <= set(hints)
    assert "return" in hints
    assert "Returns:" in function.__doc__


def test_train_trains_and_continues(images, tmp_path):
    trained = iwae_tf.train(_model(), images, _plan(), tmp_path / "run")
    assert (trained.epochs, trained.steps, trained.resumed) == (2, 6, False)
    rows = runs.RunDirectory(tmp_path / "run").read_history()
    assert [row["epoch"] for row in rows] == [1.0, 2.0]


@pytest.mark.slow
def test_train_restores_a_finished_run(images, tmp_path):
    first, second = _model(), _model()
    iwae_tf.train(first, images, _plan(), tmp_path / "run")
    trained = iwae_tf.train(second, images, _plan(), tmp_path / "run")
    assert trained.steps == 6
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_train_refuses_another_run_in_the_folder_unless_it_is_overwritten(images, tmp_path):
    iwae_tf.train(_model(), images, _plan(), tmp_path / "run")
    with pytest.raises(UserError, match=r"other settings \(learning_rate is 0.003 there and 0.01 here\)"):
        iwae_tf.train(_model(), images, _plan(learning_rate=0.01), tmp_path / "run")
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        iwae_tf.train(_model(seed=1), images, _plan(), tmp_path / "run")
    assert iwae_tf.train(_model(seed=1), images, _plan(), tmp_path / "run", overwrite=True).steps == 6


def test_errors_speak_of_arguments(images, tmp_path):
    with pytest.raises(UserError, match="^batch_size=50 is more than the 24 training images"):
        iwae_tf.train(_model(), images, _plan(batch_size=50), tmp_path / "run")
    other = datasets.Dataset(images.train[:, :4], images.validation[:, :4], images.test[:, :4], (2, 2))
    with pytest.raises(UserError, match="have 4 values a row, but the model is for 6"):
        iwae_tf.train(_model(), other, _plan(), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_of_train_is_loaded(images, tmp_path):
    plan = _plan(learning_rate=0.01, ema_momentum=0.5, schedule="cosine", first_epochs=1)
    model = _model(objective="vae")
    iwae_tf.train(model, images, plan, tmp_path / "run")
    for loaded in (iwae_tf.load(tmp_path / "run"), iwae_tf.load(tmp_path / "run", _model(objective="vae"))):
        assert loaded.objective.name == "vae"
        np.testing.assert_array_equal(loaded(_binary()), model(_binary()))


@pytest.mark.slow
def test_weights_older_than_the_results_are_said_to_be(tmp_path, capsys):
    words = ["--max_images=60", "--epochs=2", "--k=1", "--batch_size=20", "--latent_dims=2", "--hidden_dims=5"]
    words += ["--nll_samples=10", "--noexport", f"--run_dir={tmp_path}", "--nojit"]
    main.main(["main", *words])
    capsys.readouterr()
    iwae_tf.load(tmp_path)
    assert capsys.readouterr().err == ""
    checkpoints = sorted((tmp_path / "checkpoints").glob("*.npz"), key=lambda path: int(path.stem.split("-")[1]))
    checkpoints[-1].unlink()
    assert iwae_tf.load(tmp_path).num_steps == 3
    assert "the weights in" in (note := capsys.readouterr().err)
    assert "are of step 3, but its results are of step 6: a checkpoint is missing" in note


@pytest.mark.slow
def test_a_model_that_was_compiled_before_is_trained_with_the_plan(images, tmp_path):
    compiled = _model()
    compiled.compile(optimizer="sgd", jit_compile=False)
    plain = _model()
    for name, model in (("compiled", compiled), ("plain", plain)):
        iwae_tf.train(model, images, _plan(), tmp_path / name)
    np.testing.assert_array_equal(iwae_tf.load(tmp_path / "compiled")(_binary()), plain(_binary()))


class Encoder(keras.layers.Layer):
    """Has no `get_config`, and an argument that Keras cannot write down."""

    def __init__(self, network):
        super().__init__()
        self.units, self.network = 3, network

    def call(self, x):
        return layers.DiagonalNormal(self.network(x), tf.ones([3]))


def _own_model():
    return iwae_tf.ImportanceWeightedAutoencoder(
        iwae_tf.networks.BottomUpInference([Encoder(keras.layers.Dense(3))]),
        iwae_tf.networks.GenerativeNetwork([layers.BernoulliLayer(EVENT, (5,), seed=1)], layers.standard_normal(3)),
        num_samples=2,
    )


def test_a_run_of_a_model_without_config_is_loaded_into_the_same_model(images, tmp_path):
    model = _own_model()
    iwae_tf.train(model, images, _plan(), tmp_path / "run")
    with pytest.raises(UserError, match=r"build the same model and pass it: iwae_tf.load\(run_dir, model\)") as error:
        iwae_tf.load(tmp_path / "run")
    assert "\n" not in str(error.value)
    loaded = iwae_tf.load(tmp_path / "run", _own_model())
    np.testing.assert_array_equal(loaded(_binary()), model(_binary()))
    with pytest.raises(UserError, match="from another model"):
        iwae_tf.load(tmp_path / "run", _model())


def test_train_refuses_a_run_of_other_networks_or_of_the_command(images, tmp_path):
    iwae_tf.train(_model(), images, _plan(), tmp_path / "run")
    wider = iwae_tf.ImportanceWeightedAutoencoder(
        *iwae_tf.paper_networks(EVENT, (3, 2), ((7,), (4,)), seed=0), num_samples=4
    )
    with pytest.raises(UserError, match="was trained with other networks"):
        iwae_tf.train(wider, images, _plan(), tmp_path / "run")
    with runs.RunDirectory(tmp_path / "command") as run:
        run.claim({"k": "5"})
    with pytest.raises(UserError, match="was trained by python -m iwae_tf.main; choose"):
        iwae_tf.train(_model(), images, _plan(), tmp_path / "command")


def test_a_damaged_description_is_refused_in_one_line(images, tmp_path):
    iwae_tf.train(_model(), images, _plan(), tmp_path / "run")
    for content in ("{", "[]", '{"class_name": "Missing", "config": {}, "module": "os", "registered_name": "x"}'):
        (tmp_path / "run" / "model.json").write_text(content)
        with pytest.raises(UserError, match="model.json cannot be read") as error:
            iwae_tf.load(tmp_path / "run")
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match="model.json cannot be read|other networks"):
            iwae_tf.train(_model(), images, _plan(), tmp_path / "run")


def test_log_likelihood_is_the_bound_and_the_same_for_the_same_seed():
    model = _model()
    x = _binary()
    measured = iwae_tf.log_likelihood(model, x, num_samples=200)
    again = iwae_tf.log_likelihood(model, x[:3], num_samples=200)
    assert len(measured) == 5
    assert measured.mean == pytest.approx(measured.values.mean())
    assert measured.stderr == pytest.approx(measured.values.std(ddof=1) / np.sqrt(5))
    assert np.all((measured.effective_sample_size >= 1.0) & (measured.effective_sample_size <= 200.0))
    np.testing.assert_allclose(again.values, measured.values[:3], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(measured), measured.values)
    assert not np.allclose(iwae_tf.log_likelihood(model, x, num_samples=200, seed=1).values, measured.values)


def test_the_likelihoods_of_all_images_sum_to_one():
    """2^6 binary images; the estimate of each p(x) is unbiased, so the sum is one up to its standard error."""
    model = _model()
    x = np.array([[(i >> j) & 1 for j in range(EVENT)] for i in range(2**EVENT)], np.float32)
    model(x)
    for weight in model.inference.weights:  # q(z | x) is standard normal: a proposal without heavy tails.
        weight.assign(np.zeros(weight.shape))
    sums = [np.exp(iwae_tf.log_likelihood(model, x, 2000, seed).values).sum() for seed in range(6)]
    stderr = np.std(sums, ddof=1) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - 1.0) < 5.0 * stderr
    assert stderr < 0.05


@pytest.mark.parametrize(
    ("x", "num_samples", "message"),
    [
        (np.zeros([2, 5]), 5, r"The images have shape \(2, 5\), but must be one tensor of shape \[batch, 6\]"),
        (np.zeros([0, 6]), 5, "at least one image"),
        (np.zeros([6]), 5, r"have shape \(6,\)"),
        (np.zeros([2, 6]), 0, "num_samples is 0, but must be an integer, at least 1"),
        (np.full([2, 6], 0.5), 5, "grey"),
        (np.full([2, 6], np.nan), 5, "not numbers"),
    ],
)
def test_bad_input_of_log_likelihood_is_refused(x, num_samples, message):
    with pytest.raises(ValueError, match=message) as error:
        iwae_tf.log_likelihood(_model(), x, num_samples)
    assert "\n" not in str(error.value)


def test_load_dataset():
    images = iwae_tf.load_dataset("mnist")
    assert images.train.shape == (59600, 784)
    with pytest.raises(UserError, match="'mnits'"):
        iwae_tf.load_dataset("mnits")
