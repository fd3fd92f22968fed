"""Products and gradients of training: exact values, and rounding of the products alone under a mixed policy."""

import re

import keras
import mixed_model
import numpy as np
import pytest
import tensorflow as tf
from mixed_model import BATCH, LATENT_DIMS, SAMPLES, errors, images

import iwae_tf
from iwae_tf import layers, noise, products


@pytest.fixture(autouse=True)
def rounded_products_of_few_rows(monkeypatch):
    monkeypatch.setattr(products, "_LEAST_ROUNDED_ROWS", 1)


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


def test_results_are_rounded_where_the_library_does_it():
    rng = np.random.default_rng(0)
    a, b = (tf.constant(rng.normal(size=shape), tf.float32) for shape in ([60, 200], [200, 70]))
    product, rounded = products._product(a, b, "bfloat16"), _rounded(tf.linalg.matmul(_rounded(a), _rounded(b)))
    assert product.dtype == tf.float32
    np.testing.assert_array_equal(product, _rounded(product))
    # Sums in another order may be rounded to the next number.
    np.testing.assert_allclose(product, rounded, rtol=2.0**-7, atol=1e-4)
    assert np.mean(product.numpy() == rounded.numpy()) > 0.95
    assert np.mean(product.numpy() == tf.linalg.matmul(a, b).numpy()) < 0.05


@tf.custom_gradient
def _affine_of_rounded(rows, kernel, *bias):
    """The same from products of float32 numbers."""
    rounded_rows, rounded_kernel = _rounded(rows), _rounded(kernel)

    def gradient(upstream):
        upstream = _rounded(upstream)
        of_rows = tf.linalg.matmul(upstream, rounded_kernel, transpose_b=True)
        of_kernel = tf.linalg.matmul(rounded_rows, upstream, transpose_a=True)
        return of_rows, of_kernel, *(tf.reduce_sum(upstream, axis=0) for _ in bias)

    return sum(bias, tf.linalg.matmul(rounded_rows, rounded_kernel)), gradient


on_a_cpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="on a GPU, the results are rounded, too"
)


def _outputs_and_gradients(affine, arguments, direction):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        outputs = affine(*arguments)
    return outputs, *tape.gradient(outputs, arguments, direction)


def _arguments(num_rows, has_bias):
    rng = np.random.default_rng(0)
    shapes = [[num_rows, 20], [20, 9], *([[9]] if has_bias else [])]
    arguments = [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]
    return arguments, tf.constant(rng.normal(size=[num_rows, 9]), tf.float32)


def _affine(rows, kernel, bias=None):
    return products._affine(rows, kernel, bias, "bfloat16")


@on_a_cpu
@pytest.mark.parametrize("num_rows", [1, 7, 60])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("jit_compile", [True, False])
def test_only_operands_are_rounded(num_rows, has_bias, jit_compile):
    arguments, direction = _arguments(num_rows, has_bias)
    expected = _outputs_and_gradients(_affine_of_rounded, arguments, direction)
    found = tf.function(_outputs_and_gradients, jit_compile=jit_compile)(_affine, arguments, direction)
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == tf.float32
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


@on_a_cpu
def test_any_number_of_rows_may_be_selected_within_xla():
    arguments, direction = _arguments(7, True)
    chosen = tf.constant([True, False, True, True, False, False, True])

    def of_weights(chosen):
        rows, *weights = arguments
        return _outputs_and_gradients(_affine, [rows[chosen], *weights], direction[chosen])[2:]

    found = tf.function(of_weights, jit_compile=True, autograph=False)(chosen)
    rows, *weights = arguments
    expected = _outputs_and_gradients(_affine_of_rounded, [rows[chosen], *weights], direction[chosen])[2:]
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


@on_a_cpu
@pytest.mark.parametrize("jit_compile", [True, False])
def test_gradients_of_rounded_products_have_gradients(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def second_derivatives(dtype):
        with tf.GradientTape() as second, tf.GradientTape() as first:
            second.watch(arguments)
            first.watch(arguments)
            outputs = tf.tanh(products._affine(*arguments, dtype))
        with second:
            gradients = first.gradient(outputs, arguments)
            squares = tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients])
        return second.gradient(squares, arguments)

    arguments, _ = _arguments(7, True)
    for found, exact in zip(second_derivatives("bfloat16"), second_derivatives("float32"), strict=True):
        assert 0.0 < np.linalg.norm(found - exact) < 2.0**-5 * np.linalg.norm(exact)


@on_a_cpu
@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) < (2, 21), reason="XLA of TensorFlow 2.19 multiplies in float32"
)
def test_xla_multiplies_the_rounded_operands_as_they_are():
    """It would compute a product whose first operand is transposed in float32."""
    model = _model(1, "mixed_bfloat16")
    x = tf.constant(images())
    step = tf.function(lambda: model.gradients(x)[1], jit_compile=True)
    program = step.experimental_get_compiler_ir()(stage="optimized_hlo")
    operands = [
        re.findall(r"%([\w.-]+)", line.split(" dot(")[1])[:2] for line in program.splitlines() if " dot(" in line
    ]
    types = dict(re.findall(r"%([\w.-]+) = (\w+)\[", program))
    # Seven layers have three products each, but there is no gradient of x.
    assert len(operands) == 20
    assert {types[name] for pair in operands for name in pair} == {"bf16"}


@on_a_cpu
@pytest.mark.parametrize(
    "arguments", [{}, pytest.param({"jit_compile": False}, marks=pytest.mark.slow), {"run_eagerly": True}]
)
def test_training_has_such_products_and_evaluation_does_not(arguments, monkeypatch):
    rows = []
    affine = products._affine_of_rounded
    monkeypatch.setattr(products, "_affine_of_rounded", lambda *args: rows.append(args[0].shape[0]) or affine(*args))
    model = mixed_model.build(1)
    model.compile(**arguments)
    model.fit(images(), batch_size=BATCH, verbose=0)
    assert rows == [*4 * [BATCH], *3 * [SAMPLES * BATCH]]
    rows.clear()
    model.evaluate(images(), verbose=0)
    assert not rows


@on_a_cpu
@pytest.mark.parametrize(("num_rows", "is_rounded"), [(49, False), (50, True)])
def test_products_of_few_rows_are_not_rounded(num_rows, is_rounded, monkeypatch):
    monkeypatch.undo()
    arguments, direction = _arguments(num_rows, True)
    found = _outputs_and_gradients(_affine, arguments, direction)
    exact = _outputs_and_gradients(lambda rows, kernel, bias: rows @ kernel + bias, arguments, direction)
    for value, wanted in zip(found, exact, strict=True):
        assert (np.abs(value - wanted).max() > 1e-4) == is_rounded


@on_a_cpu
def test_how_a_product_is_computed_does_not_depend_on_earlier_batches(monkeypatch):
    rows = []
    affine = products._affine_of_rounded
    monkeypatch.setattr(products, "_affine_of_rounded", lambda *args: rows.append(args[0].shape[0]) or affine(*args))
    model = _model(1, "mixed_bfloat16")
    model.fit(images(), batch_size=BATCH - 10, verbose=0)
    assert set(rows) == {BATCH - 10, 10, SAMPLES * (BATCH - 10), SAMPLES * 10}


def _share_of_errors(num_layers, estimator, weights, monkeypatch):
    """How far mixed gradients are from float32 ones with rounded products, relative to the error of the rounding."""
    dtypes = ("float64", "float32", "mixed_bfloat16")
    models = {dtype: _model(num_layers, dtype, gradient_estimator=estimator) for dtype in dtypes}
    for model in models.values():
        model.set_weights(weights or models["float32"].get_weights())
    _, exact = _terms_and_gradients(models["float64"])
    with monkeypatch.context() as patch:
        patch.setattr(products, "_affine", lambda rows, kernel, bias, _: _affine_of_rounded(rows, kernel, bias))
        _, rounded = _terms_and_gradients(models["float32"])
    _, mixed = _terms_and_gradients(models["mixed_bfloat16"])
    # A rounded number is off by up to 2^-9 of its value, and about ten products follow each other.
    assert 2.0**-11 < errors(rounded, exact).max() < 10.0 * 2.0**-8
    return errors(mixed, rounded) / errors(rounded, exact)


@on_a_cpu
@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("estimator", ["standard", "dreg"])
def test_a_mixed_policy_rounds_the_products_and_nothing_else(estimator, num_layers, is_trained, trained, monkeypatch):
    weights = trained[num_layers] if is_trained else None
    assert _share_of_errors(num_layers, estimator, weights, monkeypatch).max() < 0.02


def _in_bfloat16(function):
    return lambda *args, **kwargs: _rounded(function(*args, **kwargs))


@on_a_cpu
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(products, "_sum", id="log p(x | z)"),
        pytest.param(layers.DiagonalNormal, "_log_prob", id="log p(z) and log q(z | x)"),
        pytest.param(products, "_product_of_rounded", id="the results of products"),
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
