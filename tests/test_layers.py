import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from iwae_tf import layers

tfd = tfp.distributions


# 32 is cut into 4 slices of 8; 12 and 7 are not divisible by 8 and remain one slice.
@pytest.mark.parametrize("event", [32, 12, 7])
def test_pixel_bernoulli_agrees_with_tfp(event):
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(scale=6.0, size=(5, 3, event)), tf.float32)
    x = tf.constant(rng.integers(0, 2, (3, event)), tf.float32)
    exact = tfd.Independent(tfd.Bernoulli(logits=tf.cast(logits, tf.float64)), 1).log_prob(tf.cast(x, tf.float64))
    np.testing.assert_allclose(layers.PixelBernoulli(logits).log_prob(x), exact, rtol=2e-6)
    np.testing.assert_allclose(layers.PixelBernoulli(logits).mean(), tf.sigmoid(logits))


def test_the_gradient_of_pixel_bernoulli_is_x_minus_p():
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(scale=6.0, size=(5, 3, 12)), tf.float32)
    x = tf.constant(rng.integers(0, 2, (3, 12)), tf.float32)
    upstream = tf.constant(rng.normal(size=(5, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(upstream * layers.PixelBernoulli(logits).log_prob(x))
    expected = upstream[..., tf.newaxis] * (x - tf.sigmoid(logits))
    np.testing.assert_allclose(tape.gradient(total, logits), expected, atol=1e-6)


def test_pixel_bernoulli_is_finite_at_extreme_logits():
    logits = tf.constant([[1e4, -1e4, 90.0, -90.0]])
    x = tf.constant([[1.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(layers.PixelBernoulli(logits).log_prob(x), [-180.0], rtol=1e-6)


@pytest.mark.parametrize("leading", [(4,), (3, 4)])
def test_the_leading_axes_become_the_batch_shape(leading):
    inputs = tf.random.stateless_normal([*leading, 6], [0, 0])
    gaussian = layers.GaussianLayer(5, (8, 7), seed=0)(inputs)
    assert (gaussian.batch_shape, gaussian.event_shape) == (leading, (5,))
    pixels = layers.BernoulliLayer(9, (8,), seed=0)(inputs)
    assert (pixels.batch_shape, pixels.event_shape) == (leading, (9,))


def test_initial_weights_depend_on_the_seed_and_differ_within_a_layer():
    first, again, other = (layers.GaussianLayer(5, (5, 5), seed=seed) for seed in (0, 0, 1))
    inputs = tf.ones([1, 5])
    for layer in (first, again, other):
        layer(inputs)
    kernels = [dense.kernel.numpy() for dense in (*first.hidden, first.loc, first.log_scale)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    np.testing.assert_array_equal(first.loc.kernel, again.loc.kernel)
    assert np.any(first.loc.kernel != other.loc.kernel)


def test_the_initial_output_bias_gives_the_mean_image():
    mean = np.array([0.0, 0.2, 0.5, 1.0])
    bias = layers.output_bias_from_mean(mean)
    np.testing.assert_allclose(tf.sigmoid(bias), [0.001, 0.2, 0.5, 0.999], rtol=1e-5)
    layer = layers.BernoulliLayer(4, (3,), seed=0, output_bias=bias)
    layer(tf.zeros([1, 2]))
    np.testing.assert_array_equal(layer.logits.bias, bias)


def test_diagonal_normal_agrees_with_tfp():
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(4, 3)), rng.uniform(0.1, 2.0, size=(4, 3))
    value = rng.normal(size=(5, 1, 3))
    normal, expected = layers.DiagonalNormal(loc, scale), tfd.MultivariateNormalDiag(loc, scale)
    np.testing.assert_allclose(normal.log_prob(value), expected.log_prob(value), rtol=1e-12)
    assert normal.log_prob(value).shape == (5, 4)


def test_pixel_bernoulli_has_the_gradients_of_the_tfp_distribution():
    """By the logits and by x, also at logits of zero and far from it; and the second derivatives."""
    rng = np.random.default_rng(0)
    logits = tf.constant(np.concatenate([rng.normal(0.0, 3.0, [4, 24]), [np.linspace(-60.0, 60.0, 24)]]))
    logits = tf.where(tf.abs(logits) < 0.2, tf.zeros_like(logits), logits)
    x = tf.constant(rng.uniform(size=[5, 24]))

    def derivatives(log_prob):
        with tf.GradientTape() as second, tf.GradientTape() as first:
            second.watch([logits, x])
            first.watch([logits, x])
            total = tf.reduce_sum(log_prob(logits, x) * [1.0, 2.0, 3.0, 4.0, 5.0])
        with second:
            gradients = first.gradient(total, [logits, x])
            squares = tf.reduce_sum(tf.square(gradients[0])) + tf.reduce_sum(gradients[1] ** 3)
        return [*gradients, *second.gradient(squares, [logits, x])]

    def plain(logits, x):
        return tf.reduce_sum(x * logits - tf.nn.softplus(logits), axis=-1)

    ours = derivatives(lambda logits, x: layers.PixelBernoulli(logits).log_prob(x))
    for a, b in zip(ours, derivatives(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
