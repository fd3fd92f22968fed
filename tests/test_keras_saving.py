"""`.keras` files, copies and configurations of the model."""

import copy
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_model
import tensorflow as tf
from small_model import EVENT, assert_same_weights

import iwae_tf
from iwae_tf import bounds, layers, networks

X, _, _ = small_model.data()
KINDS = {
    "one layer": {},
    "ladder": {"latent_dims": (3, 2), "inference": "ladder"},
    "batch norm": {"latent_dims": (3, 2), "layer_kwargs": {"batch_norm": True, "activation": "relu"}},
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    """A model after some steps; tests leave it as it is."""
    model = small_model.compiled(**KINDS[request.param])
    model.fit(X, batch_size=4, shuffle=False, verbose=0)
    return model


def _assert_equal(loaded, model):
    assert_same_weights(loaded, model)
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(loaded(X), model(X))


def test_a_saved_model_is_loaded(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    _assert_equal(keras.saving.load_model(tmp_path / "model.keras"), trained)


def test_a_saved_model_continues_as_the_original(tmp_path):
    model = small_model.compiled(**KINDS["ladder"])
    model.fit(X, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    losses = [m.fit(X, batch_size=4, shuffle=False, verbose=0).history["loss"] for m in (loaded, model)]
    assert losses[0] == losses[1]
    assert_same_weights(loaded, model)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(trained, copied):
    clone = copied(trained)
    _assert_equal(clone, trained)
    assert not {id(v) for v in clone.variables} & {id(v) for v in trained.variables}


def test_a_clone_has_the_initial_weights_and_the_same_sharing(trained):
    clone = keras.models.clone_model(trained)
    clone.build((None, EVENT))
    assert [v.shape for v in clone.variables] == [v.shape for v in trained.variables]
    again = type(trained).from_config(trained.get_config())
    again.build((None, EVENT))
    assert_same_weights(clone, again)
    if isinstance(trained.inference, networks.LadderInference):
        assert clone.inference.conditionals[0] is clone.generative.conditionals[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"objective": bounds.objective("ciwae", 0.05), "gradient_estimator": "dreg"},
        {"objective": bounds.objective("vr", -np.inf)},
        {"objective": bounds.objective("miwae", 5), "num_samples": 10},
        {"gradient_estimator": "resampled", "num_resampled": 2, "beta_warmup_steps": 7},
    ],
)
def test_all_settings_are_saved_before_the_model_is_built(arguments, tmp_path):
    model = small_model.build(**arguments)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.objective.parameters == model.objective.parameters
    for name in ("gradient_estimator", "num_samples", "num_resampled", "beta_warmup_steps", "seed"):
        assert getattr(loaded, name) == getattr(model, name)
    assert_same_weights(loaded, model)


def test_compile_settings_are_saved(tmp_path):
    model = small_model.compiled(jit_compile=True, steps_per_execution="auto", optimizer=keras.optimizers.SGD(0.25))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.jit_compile
    assert loaded.get_compile_config()["steps_per_execution"] == "auto"
    assert float(loaded.optimizer.learning_rate) == 0.25


@pytest.mark.parametrize("frozen", ["model", "inference", "layer"])
def test_what_is_frozen_stays_frozen(frozen, tmp_path):
    model = small_model.build()
    part = {"model": model, "inference": model.inference, "layer": model.inference.stochastic_layers[0]}[frozen]
    part.trainable = False
    model.compile(jit_compile=False)
    model.fit(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for copied in (loaded, copy.deepcopy(model)):
        assert len(copied.trainable_variables) == len(model.trainable_variables)
        assert int(copied.optimizer.iterations) == int(model.optimizer.iterations)


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="model.h5', but must end with .keras"):
        small_model.build().save(tmp_path / "model.h5")


def test_build_creates_the_variables_and_checks_the_shape(tmp_path):
    model = small_model.build()
    model.build((None, EVENT))
    assert len(model.weights) == 10
    model.save_weights(tmp_path / "a.weights.h5")
    fresh = small_model.build(seed=9)
    for variable in model.variables:
        variable.assign(variable + 1.0)
    fresh.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(fresh.weights[0] + 1.0, model.weights[0])
    with pytest.raises(ValueError, match=r"input_shape is \(None, 50\), but must be \(None, 8\)"):
        small_model.build().build((None, 50))


def test_keras_export_serves_the_bounds(tmp_path):
    model = small_model.compiled()
    model.fit(X, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(X), model(X), rtol=1e-5)


@keras.saving.register_keras_serializable("test_keras_saving")
class OwnEncoder(keras.layers.Layer):
    """As in docs/keras.md, with an argument."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.net = keras.Sequential([keras.layers.Dense(6, "relu"), keras.layers.Dense(2 * units)])

    def call(self, x):
        loc, log_scale = tf.split(self.net(x), 2, axis=-1)
        return layers.DiagonalNormal(loc, tf.exp(log_scale))


def _own_model():
    generative = networks.GenerativeNetwork([layers.BernoulliLayer(EVENT, (6,), seed=1)], layers.standard_normal(3))
    return iwae_tf.ImportanceWeightedAutoencoder(networks.BottomUpInference([OwnEncoder(3)]), generative)


@pytest.mark.slow
def test_a_registered_layer_of_ones_own_is_saved(tmp_path):
    model = _own_model()
    model.compile(jit_compile=False)
    model.fit(X, verbose=0)
    model.save(tmp_path / "model.keras")
    _assert_equal(keras.saving.load_model(tmp_path / "model.keras"), model)


@pytest.mark.slow
def test_another_process_loads_the_file(tmp_path):
    model = small_model.build()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    code = (
        "import keras, iwae_tf, numpy as np\n"
        "model = keras.saving.load_model('model.keras')\n"
        "np.save('bounds.npy', model.predict(np.load('x.npy'), verbose=0))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "bounds.npy"), model(X), rtol=1e-5)
