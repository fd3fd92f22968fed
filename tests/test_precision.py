"""Dtype policies: products as the policy says, log-densities and bounds in float32 or better."""

import keras
import numpy as np
import pytest
import small_model
import tensorflow as tf
from small_model import EVENT

import iwae_tf
from iwae_tf import layers, models, networks

X, _, _ = small_model.data(40)
ARGUMENTS = {"batch_size": 10, "verbose": 0, "shuffle": False}


@pytest.fixture
def policy():
    """Sets the global policy, and restores it."""
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def double():
    """Keras in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(before)


def _losses(**kwargs):
    model = small_model.compiled(optimizer=keras.optimizers.Adam(0.02), **kwargs)
    return model, model.fit(X, validation_data=X, epochs=8, **ARGUMENTS).history["val_loss"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mixed_float16", {}),
        ("mixed_bfloat16", {"latent_dims": (3, 2), "inference": "ladder", "layer_kwargs": {"batch_norm": True}}),
    ],
)
@pytest.mark.slow
def test_mixed_precision_trains_as_well_as_float32(name, kind, policy, tmp_path):
    _, expected = _losses(**kind)
    policy(name)
    model, losses = _losses(**kind)
    assert losses[-1] < losses[0] - 0.2
    assert losses[-1] == pytest.approx(expected[-1], abs=0.1)
    assert {variable.dtype for variable in model.variables} == {"float32"}
    terms = model.log_weight_terms(X, model.draw_epsilon(3, len(X), tf.constant([0, 1])))
    assert terms.log_weights.dtype == tf.float32
    assert model.generative.conditionals[0].logits.product_dtype == name.removeprefix("mixed_")
    policy("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.dtype_policy.name == loaded.inference.dtype_policy.name == name
    np.testing.assert_array_equal(loaded(X), model(X))


def test_the_scaled_loss_gives_the_same_step(policy):
    """`LossScaleOptimizer` divides by the factor that the loss was multiplied by."""
    policy("mixed_float16")
    plain, scaled = small_model.build(), small_model.build()
    plain.compile(keras.optimizers.SGD(0.1), auto_scale_loss=False, run_eagerly=True)
    scaled.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    assert isinstance(scaled.optimizer, keras.optimizers.LossScaleOptimizer)
    start = [variable.numpy() for variable in plain.trainable_variables]
    for model in (plain, scaled):
        model.train_on_batch(X)
    for a, b, before in zip(plain.trainable_variables, scaled.trainable_variables, start, strict=True):
        np.testing.assert_allclose(a - before, b - before, atol=5e-4)
    assert np.abs(scaled.trainable_variables[0] - start[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        pytest.param("standard", {"latent_dims": (3, 2), "inference": "ladder"}, marks=pytest.mark.slow),
        pytest.param("dreg", {"latent_dims": (3, 2)}, marks=pytest.mark.slow),
        pytest.param("rws", {}, marks=pytest.mark.slow),
        ("resampled", {}),
    ],
)
def test_double_precision(double, estimator, kind):
    beta = {} if estimator == "rws" else {"beta_warmup_steps": 3}
    model = small_model.compiled(gradient_estimator=estimator, num_resampled=2, **beta, **kind)
    model.fit(X, epochs=1, **ARGUMENTS)
    assert {variable.dtype for variable in model.variables} == {"float64"}
    assert model(X).dtype == tf.float64
    assert model.predict(X, verbose=0).dtype == np.float64
    assert np.isfinite(model.log_likelihood(X[:2], 20).mean)
    assert all(means.dtype == tf.float64 for means in model.encode(X).means)


def test_double_precision_and_single_agree(double):
    model = small_model.build()
    expected = model(X)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    single = small_model.build()
    single(X)
    single.set_weights(model.get_weights())
    np.testing.assert_allclose(single(X), expected, atol=2e-5)


def test_a_distribution_in_half_precision_is_refused(policy):
    class Encoder(keras.layers.Layer):
        units = 3

        def __init__(self):
            super().__init__()
            self.net = keras.layers.Dense(6)

        def call(self, x):
            loc, log_scale = tf.split(self.net(x), 2, axis=-1)
            return layers.DiagonalNormal(loc, tf.exp(log_scale))

    policy("mixed_bfloat16")
    generative = networks.GenerativeNetwork([layers.BernoulliLayer(EVENT, (6,), seed=1)], layers.standard_normal(3))
    with pytest.raises(ValueError, match="in bfloat16; cast its parameters to float32"):
        models.ImportanceWeightedAutoencoder(networks.BottomUpInference([Encoder()]), generative).compile()


def test_load_gives_back_the_policy_of_the_training(double, tmp_path):
    """A run in mixed precision, loaded while Keras is in float64."""
    images = iwae_tf.datasets.Dataset(*(np.uint8(255 * x) for x in (X[:20], X[20:30], X[30:])), event_shape=(2, 4))
    kwargs = {"dtype": "mixed_bfloat16"}
    model = small_model.build(layer_kwargs=kwargs, **kwargs)
    iwae_tf.train(model, images, iwae_tf.Plan(epochs=1, batch_size=10, jit=False), tmp_path / "run")
    loaded = iwae_tf.load(tmp_path / "run")
    assert loaded.dtype_policy.name == loaded.generative.conditionals[0].dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(loaded(X), model(X))
