"""Training steps whose products leave XLA: their gradients, and when they are chosen.

The steps are the same on every CPU, only their speed is not; so the tests pretend that there are matrix units.
"""

import contextlib

import keras
import mixed_model
import numpy as np
import pytest
import tensorflow as tf
from mixed_model import BATCH, PIXELS, SAMPLES, errors, images

import iwae_tf
from iwae_tf import layers, matrix_units, products, training
from iwae_tf.training import batches


@pytest.fixture(autouse=True)
def matrix_units_for_all_products(monkeypatch):
    monkeypatch.setattr(matrix_units, "_exist", lambda: True)
    monkeypatch.setattr(matrix_units, "_LEAST_ROWS", 1)
    monkeypatch.setattr(matrix_units, "_LEAST_ROWS_OF_STEP", SAMPLES * BATCH)
    monkeypatch.setattr(products, "_LEAST_ROUNDED_ROWS", 1)


def _compiled(*args, **kwargs):
    model = mixed_model.build(*args, **kwargs)
    model.compile(keras.optimizers.Adam(0.02))
    return model


def _gradients(model, in_step=None):
    """The log-weights and the gradients, in float64."""

    def gradients():
        x = tf.constant(images(), model.density_dtype)
        if in_step is None:
            terms, found = model.gradients(x)
        else:
            with in_step():
                terms, found = model.gradients(x)
        return terms.log_weights, found

    log_weights, found = gradients() if in_step is None else tf.function(gradients)()
    return log_weights.numpy(), [gradient.numpy().astype(np.float64) for gradient in found]


CASES = [
    (1, "standard", {}),
    (2, "dreg", {}),
    pytest.param(2, "standard", {"inference": "ladder"}, marks=pytest.mark.slow),
    pytest.param(2, "rws", {}, marks=pytest.mark.slow),
    pytest.param(1, "stl", {"activation": "relu"}, marks=pytest.mark.slow),
    pytest.param(1, "standard", {"activation": "relu", "batch_norm": True}, marks=pytest.mark.slow),
    pytest.param(1, "dreg", {"likelihood": "gaussian"}, marks=pytest.mark.slow),
]


def _assert_errors_are_those_of_rounded_products(num_layers, estimator, networks):
    exact_model, plain, model = (
        _compiled(num_layers, dtype, networks, gradient_estimator=estimator)
        for dtype in ("float64", "mixed_bfloat16", "mixed_bfloat16")
    )
    exact_model.set_weights(model.get_weights())
    exact_log_weights, exact = _gradients(exact_model)
    log_weights, found = _gradients(model, matrix_units.steps)
    rounding = errors(_gradients(plain)[1], exact)
    assert rounding.max() > 2.0**-11
    # The gradients of the biases are rounded here, too, and other roundings add up by chance.
    assert np.all(errors(found, exact) < 1.5 * rounding + 2.0**-8)
    if not networks:
        assert 0.0 < abs(np.mean(log_weights - exact_log_weights)) < 0.02
    assert log_weights.dtype == np.float32


@pytest.mark.parametrize(("num_layers", "estimator", "networks"), CASES)
def test_gradients_are_those_of_float64_but_for_the_rounding_of_products(num_layers, estimator, networks):
    _assert_errors_are_those_of_rounded_products(num_layers, estimator, networks)


@pytest.mark.slow
def test_that_test_fails_for_log_densities_in_bfloat16(monkeypatch):
    exact = layers.DiagonalNormal._log_prob

    def log_prob(self, value):
        result = exact(self, value)
        if not matrix_units._is_in_use.get():
            return result
        # XLA would leave out a cast to bfloat16 and back.
        first_half = tf.bitwise.bitwise_and(tf.bitcast(result, tf.uint32), tf.constant(0xFFFF0000, tf.uint32))
        return result + tf.stop_gradient(tf.bitcast(first_half, tf.float32) - result)

    monkeypatch.setattr(layers.DiagonalNormal, "_log_prob", log_prob)
    with pytest.raises(AssertionError):
        _assert_errors_are_those_of_rounded_products(2, "standard", {})


def test_the_derivative_of_tanh_is_precise_where_tanh_is_nearly_one():
    @tf.function
    def derivatives(outputs):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            values = matrix_units.tanh(outputs, tf.zeros(3))
        return tape.gradient(values, outputs)

    gradient = derivatives(tf.constant([[3.0, 4.0, -5.0]], tf.bfloat16))
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), 1.0 / np.cosh([[3.0, 4.0, 5.0]]) ** 2, rtol=2.0**-7)


def test_missing_pixels_have_no_term():
    layer = layers.BernoulliLayer(PIXELS, (20,), seed=1, missing_values=True, dtype="mixed_bfloat16")
    z = np.random.default_rng(2).normal(size=[SAMPLES, BATCH, 4]).astype(np.float32)
    x = np.where(np.random.default_rng(3).random([BATCH, PIXELS]) < 0.5, np.nan, images())

    layer(z)

    def log_prob_and_gradients(in_step):
        def compute():
            with in_step(), products.training(), tf.GradientTape() as tape:
                log_prob = layer(z).log_prob(x)
            return log_prob, *tape.gradient(log_prob, layer.trainable_variables)

        return tf.function(compute)()

    for value, expected in zip(*map(log_prob_and_gradients, (matrix_units.steps, contextlib.nullcontext)), strict=True):
        assert np.linalg.norm(value - expected) < 2.0**-6 * np.linalg.norm(expected)


def _products_outside_xla(model):
    """The shapes of the results of the products that a training step leaves to TensorFlow."""

    @tf.function
    def step():
        with matrix_units.steps():
            model.train_step(tf.constant(images()))

    operations = step.get_concrete_function().graph.get_operations()
    products = [operation for operation in operations if operation.type == "MatMul"]
    return [product.outputs[0].shape.as_list() for product in products if not product.get_attr("_XlaCompile")]


def test_products_of_few_rows_stay_within_the_compiled_parts(monkeypatch):
    monkeypatch.setattr(matrix_units, "_LEAST_ROWS", SAMPLES * BATCH)
    shapes = _products_outside_xla(_compiled(1))
    # The decoder's three products, and for each the gradients of its inputs, its kernel and its bias. The product that
    # gives the logits is there twice, but TensorFlow drops the one that nothing depends on.
    assert len(shapes) == 12 + 1
    assert sum(shape[0] == SAMPLES * BATCH for shape in shapes) == 6 + 1


def _run(model, images, calls):
    """Takes the steps of an epoch in calls of the given numbers of steps; returns the metrics and the weights."""
    run_steps = batches.compiled_steps(model, tf.constant(images))
    order = tf.reshape(tf.range(len(images)), [-1, BATCH])
    start = 0
    for count in calls:
        metrics = run_steps(order, start, start + count)
        start += count
    return {name: float(value) for name, value in metrics.items()}, model.get_weights()


def _prepared(**kwargs):
    model = mixed_model.build(1, **kwargs)
    training.prepare(model, training.Plan(epochs=1, batch_size=BATCH), 6)
    return model


def test_steps_in_parts_train_as_steps_in_one_function(monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, [6 * BATCH, PIXELS]).astype(np.uint8)
    metrics, weights = _run(_prepared(), images, [6])
    # The same bits, however the steps are divided into calls.
    again, same_weights = _run(_prepared(), images, [1, 3, 2])
    assert again == metrics
    for value, same in zip(weights, same_weights, strict=True):
        np.testing.assert_array_equal(value, same)
    monkeypatch.setattr(matrix_units, "_exist", lambda: False)
    expected, _ = _run(_prepared(), images, [6])
    for name, value in metrics.items():
        assert value == pytest.approx(expected[name], rel=0.02), name
    assert metrics != expected


def test_keras_fit_takes_such_steps_for_every_batch_size_but_not_to_evaluate(monkeypatch):
    monkeypatch.setattr(matrix_units, "_LEAST_ROWS_OF_STEP", 1)
    rows = []
    product = matrix_units.product
    monkeypatch.setattr(matrix_units, "product", lambda a, b: rows.append(a.shape[0]) or product(a, b))
    model = _compiled(1)
    x = np.tile(images(), [4, 1])[: 4 * BATCH - 7]
    losses = model.fit(x, epochs=8, batch_size=BATCH, validation_data=(x,), verbose=0).history["val_loss"]
    assert {SAMPLES * BATCH, SAMPLES * (BATCH - 7)} <= set(rows)
    assert losses[-1] < losses[0] - 0.5
    rows.clear()
    assert model.evaluate(x, batch_size=BATCH, verbose=0)[0] == pytest.approx(losses[-1], rel=1e-5)
    assert not rows


@pytest.mark.slow
def test_a_layer_of_a_user_gets_features_in_float32():
    class Decoder(layers.BernoulliLayer):
        def distribution(self, features):
            return layers.PixelBernoulli(self.logits(features) + 0.01 * tf.matmul(features, tf.ones([20, PIXELS])))

    built = iwae_tf.paper_networks(PIXELS, (4,), ((20, 20),), dtype="mixed_bfloat16", likelihood=Decoder)
    model = iwae_tf.ImportanceWeightedAutoencoder(*built, num_samples=SAMPLES, dtype="mixed_bfloat16")
    model.compile()
    losses = model.fit(images(), epochs=5, batch_size=BATCH, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("dtype", "jit_compile", "batch_size", "exist", "expected"),
    [
        ("mixed_bfloat16", True, BATCH, True, True),
        ("float32", True, BATCH, True, False),
        ("mixed_float16", True, BATCH, True, False),
        ("bfloat16", True, BATCH, True, False),
        ("mixed_bfloat16", False, BATCH, True, False),
        ("mixed_bfloat16", True, BATCH - 1, True, False),
        ("mixed_bfloat16", True, None, True, False),
        ("mixed_bfloat16", True, BATCH, False, False),
    ],
)
def test_they_serve_large_steps_in_bfloat16_with_xla(dtype, jit_compile, batch_size, exist, expected, monkeypatch):
    monkeypatch.setattr(matrix_units, "_exist", lambda: exist)
    model = mixed_model.build(1, dtype)
    model.compile(jit_compile=jit_compile)
    assert matrix_units.are_faster(model, SAMPLES, batch_size) is expected
    tf.config.run_functions_eagerly(True)
    try:
        assert not matrix_units.are_faster(model, SAMPLES, batch_size)
    finally:
        tf.config.run_functions_eagerly(False)
