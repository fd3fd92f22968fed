"""Products and gradients of training: exact values, and rounding of the products alone under a mixed policy."""

import keras
import mixed_model
import numpy as np
import pytest
import tensorflow as tf
from mixed_model import LATENT_DIMS, errors, images

import iwae_tf
from iwae_tf import layers, noise, products


def _model(num_layers, dtype, **kwargs):
    model = mixed_model.build(num_layers, dtype, **kwargs)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    return model


@pytest.fixture(scope="module")
def trained():
    """Number of layers -> the weights of a model that was trained for a while."""
    return {num_layers: _trained_weights(num_layers) for num_layers in LATENT_DIMS}


def _trained_weights(num_layers):
    model = _model(num_layers, "float32")
    step = tf.function(lambda: model.train_step(images()))
    for _ in range(60):
        step()
    return model.get_weights()


def _terms_and_gradients(model):
    terms, gradients = model.gradients(tf.cast(images(), model.density_dtype))
    return terms, [gradient.numpy().astype(np.float64) for gradient in gradients]


def _rounded(values):
    return tf.cast(tf.cast(values, tf.bfloat16), values.dtype)


@tf.custom_gradient
def _rounded_product(a, b):
    """A product whose operands and results are rounded to bfloat16, forward and backward."""

    def product(a, b, **kwargs):
        return _rounded(tf.linalg.matmul(_rounded(a), _rounded(b), **kwargs))

    def gradient(upstream):
        return product(upstream, b, transpose_b=True), product(a, upstream, transpose_a=True)

    return product(a, b), gradient


def _matmul(a, b):
    """tf.matmul whose sums do not depend on the processor's instructions for bfloat16."""
    return tf.cast(_rounded_product(tf.cast(a, tf.float32), tf.cast(b, tf.float32)), a.dtype)


def test_products_in_bfloat16_are_rounded_ones():
    rng = np.random.default_rng(0)
    a, b = (tf.constant(rng.normal(size=shape), tf.float32) for shape in ([60, 200], [200, 70]))
    product, rounded = products._product(a, b, "bfloat16"), _rounded_product(a, b)
    assert product.dtype == tf.float32
    np.testing.assert_array_equal(product, _rounded(product))
    # Sums in another order may be rounded to the next number.
    np.testing.assert_allclose(product, rounded, rtol=2.0**-7, atol=1e-4)
    assert np.mean(product.numpy() == rounded.numpy()) > 0.95
    assert np.mean(product.numpy() == tf.linalg.matmul(a, b).numpy()) < 0.05


def _share_of_errors(num_layers, estimator, weights, monkeypatch):
    """How far mixed gradients are from float32 ones with rounded products, relative to the error of the rounding."""
    dtypes = ("float64", "float32", "mixed_bfloat16")
    models = {dtype: _model(num_layers, dtype, gradient_estimator=estimator) for dtype in dtypes}
    for model in models.values():
        model.set_weights(weights or models["float32"].get_weights())
    _, exact = _terms_and_gradients(models["float64"])
    with monkeypatch.context() as patch:
        patch.setattr(products, "_product", lambda rows, kernel, dtype: _rounded_product(rows, kernel))
        _, rounded = _terms_and_gradients(models["float32"])
    with monkeypatch.context() as patch:
        patch.setattr(tf, "matmul", _matmul)
        _, mixed = _terms_and_gradients(models["mixed_bfloat16"])
    # A rounded number is off by up to 2^-9 of its value, and about ten products follow each other.
    assert 2.0**-11 < errors(rounded, exact).max() < 10.0 * 2.0**-8
    return errors(mixed, rounded) / errors(rounded, exact)


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("estimator", ["standard", "dreg"])
def test_a_mixed_policy_rounds_the_products_and_nothing_else(estimator, num_layers, is_trained, trained, monkeypatch):
    weights = trained[num_layers] if is_trained else None
    assert _share_of_errors(num_layers, estimator, weights, monkeypatch).max() < 0.02


def _in_bfloat16(function):
    return lambda *args, **kwargs: _rounded(function(*args, **kwargs))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(products, "_sum", id="log p(x | z)"),
        pytest.param(layers.DiagonalNormal, "_log_prob", id="log p(z) and log q(z | x)"),
        pytest.param(products, "_sum_of_rows", id="the sum of the bias's gradient"),
        pytest.param(noise, "normal", id="epsilon"),
    ],
)
def test_that_test_fails_for_anything_else_in_bfloat16(owner, name, trained, monkeypatch):
    wrong = _in_bfloat16(getattr(owner, name))
    original = iwae_tf.ImportanceWeightedAutoencoder.gradients

    def gradients(self, x):
        with pytest.MonkeyPatch.context() as patch:
            if self.dtype_policy.name == "mixed_bfloat16":
                patch.setattr(owner, name, wrong)
            return original(self, x)

    monkeypatch.setattr(iwae_tf.ImportanceWeightedAutoencoder, "gradients", gradients)
    assert _share_of_errors(2, "standard", trained[2], monkeypatch).max() > 0.05


@pytest.mark.parametrize(
    ("estimator", "inference"),
    [("standard", "ladder"), ("resampled", "ladder"), ("stl", "bottom_up"), ("rws", "bottom_up")],
)
def test_other_estimators_and_networks_have_mixed_gradients(estimator, inference):
    gradients = {}
    for dtype in ("float32", "mixed_bfloat16"):
        networks = {"inference": inference}
        model = _model(2, dtype, gradient_estimator=estimator, num_resampled=4, networks=networks)
        _, gradients[dtype] = _terms_and_gradients(model)
    # Other samples may be resampled.
    most = 1.0 if estimator == "resampled" else 10.0 * 2.0**-8
    assert 2.0**-11 < errors(gradients["mixed_bfloat16"], gradients["float32"]).max() < most


def test_a_mixed_step_takes_adams_step_in_float32():
    model = _model(2, "mixed_bfloat16")
    before = model.get_weights()
    _, gradients = _terms_and_gradients(model)
    model.train_step(images())
    optimizer = keras.optimizers.Adam(0.02)
    expected = [tf.Variable(value) for value in before]
    optimizer.apply([tf.constant(g, tf.float32) for g in gradients], expected)
    assert {variable.dtype for variable in model.optimizer.variables} == {"int64", "float32"}
    for value, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_rounding_does_not_bias_the_bound(num_layers, trained):
    """On the same samples, by less than 0.02 nats."""
    bounds = []
    for dtype in ("float32", "mixed_bfloat16"):
        model = _model(num_layers, dtype)
        model.set_weights(trained[num_layers])
        terms, _ = _terms_and_gradients(model)
        bounds.append(iwae_tf.bounds.iwae_bound(terms.log_weights).numpy())
    assert 0.0 < np.abs(bounds[1] - bounds[0]).max() < 0.5
    assert abs(np.mean(bounds[1] - bounds[0])) < 0.02


@pytest.mark.slow
def test_only_training_rounds():
    single, mixed = _model(2, "float32"), _model(2, "mixed_bfloat16")
    x = images()
    np.testing.assert_array_equal(mixed(x), single(x))
    assert mixed.test_step(x) == single.test_step(x)
    np.testing.assert_array_equal(mixed.sample(3), single.sample(3))
    for first, second in zip(mixed.encode(x), single.encode(x), strict=True):
        np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("shapes", [([4, 3, 16], [3, 16]), ([3, 16], [4, 3, 16]), ([4, 1, 16], [1, 3, 16])])
def test_gradients_that_are_written_down_are_those_that_are_derived(shapes):
    """Of the Bernoulli log-density, by x and by the logits, and of their gradients again."""
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.normal(size=shape)) for shape in shapes]

    def derivatives():
        with tf.GradientTape() as second, tf.GradientTape() as first:
            second.watch(values)
            first.watch(values)
            total = tf.reduce_sum(tf.sin(products.sum_bernoulli_log_prob(*values)))
        with second:
            gradients = first.gradient(total, values)
            squares = sum(tf.reduce_sum(tf.square(gradient)) for gradient in gradients)
        return [*gradients, *second.gradient(squares, values)]

    derived = derivatives()
    with products.fast_gradients():
        written = derivatives()
    for a, b in zip(written, derived, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_rows", [1, 7, 30, 64, 67, 1000])
def test_the_gradient_of_a_bias_is_the_sum_over_all_rows(num_rows):
    rows = np.random.default_rng(0).normal(size=[num_rows, 5])
    np.testing.assert_allclose(products._sum_of_rows(tf.constant(rows)), rows.sum(axis=0), rtol=1e-12)


def test_a_dense_layer_is_saved_with_the_precision_of_its_products():
    layer = products.Dense(3, product_dtype="bfloat16", activation="tanh")
    again = products.Dense.from_config(layer.get_config())
    assert again.product_dtype == "bfloat16"
    again.build([None, 2])
    with products.training():
        outputs = again(tf.ones([4, 5, 2]))
    assert outputs.shape == (4, 5, 3)
    assert outputs.dtype == tf.float32
