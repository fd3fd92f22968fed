"""The likelihoods p(x | z): normalising constants, extreme parameters, initial parameters, missing values."""

import functools

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf import layers, models, networks, supports

UNITS, WIDTH = 5, 7
RNG = np.random.default_rng(0)


def _logistic_probability(x, loc, scale, num_levels):
    """The probability of a level, in float64 from the tail that is not rounded."""
    ends = [
        np.where(x > 0, (x - 0.5 - loc) / scale, -np.inf),
        np.where(x < num_levels - 1, (x + 0.5 - loc) / scale, np.inf),
    ]
    below = scipy.special.expit(ends[1]) - scipy.special.expit(ends[0])
    above = scipy.special.expit(-ends[0]) - scipy.special.expit(-ends[1])
    return np.where(ends[0] > 0, above, below)


def _continuous_bernoulli(x, logits):
    return np.log(logits / np.expm1(logits)) + logits * x


# Name -> (distribution of float32 parameters, log-density in float64, random x), each of [1000].
_N = 1000
_LOC, _SCALE = RNG.normal(0, 3, _N), np.exp(RNG.normal(0, 1, _N))
_LEVEL_LOC, _LEVEL_SCALE = RNG.uniform(-10, 30, _N), np.exp(RNG.uniform(-1, 2, _N))
_FREEDOM = 1.0 + np.exp(RNG.normal(1, 1, _N))
_LOGITS = RNG.normal(0, 5, _N)
_RATE = np.exp(RNG.normal(1, 2, _N))
_COUNT = np.exp(RNG.normal(0, 1, _N))
DENSITIES = {
    "continuous_bernoulli": (
        lambda: layers.PixelContinuousBernoulli(logits=np.float32(_LOGITS)),
        lambda x: _continuous_bernoulli(x, _LOGITS),
        RNG.uniform(0, 1, _N),
    ),
    "discretized_logistic": (
        lambda: layers.PixelLogistic.of_levels(np.float32(_LEVEL_LOC), np.float32(_LEVEL_SCALE), 17),
        lambda x: np.log(_logistic_probability(x, _LEVEL_LOC, _LEVEL_SCALE, 17)),
        RNG.integers(0, 17, _N),
    ),
    "gaussian": (
        lambda: tfd.Normal(np.float32(_LOC), np.float32(_SCALE)),
        lambda x: scipy.stats.norm.logpdf(x, _LOC, _SCALE),
        RNG.normal(0, 3, _N),
    ),
    "student_t": (
        lambda: tfd.StudentT(np.float32(_FREEDOM), np.float32(_LOC), np.float32(_SCALE)),
        lambda x: scipy.stats.t.logpdf(x, _FREEDOM, _LOC, _SCALE),
        RNG.standard_cauchy(_N),
    ),
    "poisson": (
        lambda: layers.StablePoisson(log_rate=np.float32(np.log(_RATE))),
        lambda x: scipy.stats.poisson.logpmf(x, _RATE),
        RNG.poisson(_RATE * np.exp(RNG.normal(0, 0.5, _N))),
    ),
    "negative_binomial": (
        lambda: tfd.NegativeBinomial(np.float32(_COUNT), logits=np.float32(np.log(_RATE / _COUNT))),
        lambda x: scipy.stats.nbinom.logpmf(x, _COUNT, _COUNT / (_COUNT + _RATE)),
        RNG.poisson(_RATE * np.exp(RNG.normal(0, 1, _N))),
    ),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", DENSITIES)
def test_log_densities_are_those_of_scipy(name, jit):
    distribution, expected, x = DENSITIES[name]
    compiled = tf.function(lambda x: distribution().log_prob(x), jit_compile=jit)
    # Single precision rounds x, the parameters, and logarithms of factorials.
    np.testing.assert_allclose(compiled(np.float32(x)), expected(np.float64(x)), rtol=3e-5, atol=3e-5)


def test_large_counts_lose_no_digits():
    """Written down plainly, the log-probability of a million has an error of 0.5 nats in single precision."""
    x = np.array([1e2, 1e4, 1e6, 1e6, 3e6])
    # The logarithm of the rate is rounded, too, so the exact value belongs to the rounded one.
    log_rate = np.float32(np.log(x * np.array([1.1, 1.01, 1.001, 0.9, 1.0])))
    measured = layers.StablePoisson(log_rate=log_rate).log_prob(np.float32(x))
    exact = np.float64(log_rate)
    expected = x * exact - np.exp(exact) - scipy.special.gammaln(x + 1.0)
    slope = np.abs(x - np.exp(exact)) * np.spacing(log_rate)  # What one rounding of a logarithm changes.
    assert np.all(np.abs(measured - expected) < 1e-4 + 3 * slope)


def _layer(name, **kwargs):
    return layers.LIKELIHOODS[name](UNITS, [WIDTH], seed=0, **kwargs)


def _distribution(name, z=None, **kwargs):
    return _layer(name, **kwargs)(tf.zeros([1, 3]) if z is None else z)


@pytest.mark.parametrize("name", ["bernoulli", "discretized_logistic", "poisson", "negative_binomial"])
def test_probabilities_add_up_to_one(name):
    distribution = _distribution(name, np.float32(RNG.normal(size=[2, 3])))
    grid = np.arange(2 if name == "bernoulli" else 256 if name == "discretized_logistic" else 200)
    x = np.float32(grid[:, None, None])
    total = tf.reduce_sum(tf.exp(distribution.distribution.log_prob(x)), axis=0)
    np.testing.assert_allclose(total, np.ones([2, UNITS]), rtol=2e-5)


@pytest.mark.parametrize("name", ["continuous_bernoulli", "gaussian", "student_t"])
def test_densities_integrate_to_one(name):
    distribution = _distribution(name, np.float32(RNG.normal(size=[2, 3]))).distribution
    # A substitution that maps (0, 1) to all numbers, for those that are not bounded.
    t = (np.arange(20000) + 0.5) / 20000
    x, weight = (t, np.ones_like(t)) if name == "continuous_bernoulli" else (np.tan(np.pi * (t - 0.5)), 0)
    weight = weight if name == "continuous_bernoulli" else np.pi * (1.0 + x**2)
    density = np.exp(distribution.log_prob(np.float32(x[:, None, None])).numpy().astype(np.float64))
    np.testing.assert_allclose((density * weight[:, None, None]).mean(axis=0), np.ones([2, UNITS]), rtol=1e-4)


EXTREMES = np.float32([-1e30, -1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4, 1e30])


@pytest.mark.parametrize("scale", ["feature", "sample"])
@pytest.mark.parametrize("name", sorted(set(layers.LIKELIHOODS) - {"bernoulli"}))
def test_extreme_outputs_have_finite_densities_and_gradients(name, scale):
    kwargs = {"scale": scale} if name not in ("continuous_bernoulli", "poisson") else {}
    layer = layers.LIKELIHOODS[name](1, [], seed=0, **kwargs)
    x = {"gaussian": 3.0, "student_t": 3.0, "continuous_bernoulli": 0.3}.get(name, 7.0)
    layer(tf.zeros([1, 1]))
    for head in layer.heads:
        head.kernel.assign(tf.ones_like(head.kernel))
    # Beyond these, squares are not finite in single precision; the loss of a step that leaves them is.
    outputs = EXTREMES[np.abs(EXTREMES) < 1e6][:, np.newaxis]
    with tf.GradientTape() as tape:
        value = layer(outputs).log_prob(np.full([1, 1], x, np.float32))
    gradients = tape.gradient(value, layer.trainable_variables)
    assert np.isfinite(value).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


MOMENTS = layers.Moments(np.array([0.2, 0.4, 0.5, 0.7, 0.9]), np.array([0.3, 1.0, 0.6, 2.0, 1.5]))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("name", ["gaussian", "student_t"])
def test_the_initial_distribution_has_the_moments_of_the_data(name, standardize):
    values = _distribution(name, moments=MOMENTS, standardize=standardize).distribution
    np.testing.assert_allclose(values.mean()[0], MOMENTS.mean, rtol=1e-6)
    np.testing.assert_allclose(values.variance()[0], MOMENTS.variance, rtol=2e-5)


def test_the_initial_distributions_of_counts_and_pixels_have_the_moments_of_the_data():
    for name in ("bernoulli", "continuous_bernoulli", "poisson", "negative_binomial"):
        np.testing.assert_allclose(_distribution(name, moments=MOMENTS).mean()[0], MOMENTS.mean, rtol=1e-5)
    counts = layers.Moments(np.array([2.0, 3, 4, 5, 6]), np.array([4.0, 10, 5, 30, 7]))
    values = _distribution("negative_binomial", moments=counts).distribution
    np.testing.assert_allclose(values.variance()[0], counts.variance, rtol=1e-5)
    levels = layers.Moments(np.array([20.0, 100, 128, 150, 200]), np.array([4.0, 10, 5, 30, 7]) ** 2)
    logistic = _distribution("discretized_logistic", moments=levels, num_levels=256, scale="feature").distribution
    draws = np.float64(logistic.sample(40000, seed=(0, 1)))[:, 0]
    np.testing.assert_allclose(draws.mean(axis=0), levels.mean, atol=5 * levels.stddev.max() / 200)
    # The variance of a sample of a logistic distribution has the relative standard error sqrt(3.2 / n).
    np.testing.assert_allclose(draws.var(axis=0), levels.variance + 1 / 12, rtol=5 * np.sqrt(3.2 / 40000))


@pytest.mark.parametrize("name", layers.LIKELIHOODS)
def test_samples_are_in_the_support_and_have_the_mean(name):
    moments = layers.Moments(np.full(UNITS, 0.4), np.full(UNITS, 0.5))
    distribution = _distribution(name, moments=moments)
    x = np.float64(distribution.sample(20000, seed=(0, 2)))[:, 0]
    support = _layer(name).support
    assert x.min() >= support.low
    assert x.max() <= support.high
    assert not support.is_integer or np.all(x == np.round(x))
    tolerance = 0.5 if name == "discretized_logistic" else 0.0
    assert np.all(np.abs(x.mean(axis=0) - distribution.mean()[0]) < tolerance + 5 * x.std(axis=0) / np.sqrt(len(x)))


@pytest.mark.parametrize("name", layers.LIKELIHOODS)
def test_missing_values_have_no_term_and_no_gradient(name):
    layer = _layer(name, missing_values=True)
    z = np.float32(RNG.normal(size=[4, 2, 3]))
    x = np.float32([[1, 0, 1, 0, 1], [0, 1, 1, 0, 0]])
    x[0, [1, 3]], x[1] = np.nan, np.nan
    with tf.GradientTape() as tape:
        value = layer(z).log_prob(x)
    gradients = tape.gradient(value, layer.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    terms = layer(z).distribution.log_prob(np.float32([[1, 0, 1, 0, 1]]))
    np.testing.assert_allclose(value[:, 0], tf.reduce_sum(tf.gather(terms[:, 0], [0, 2, 4], axis=-1), -1), rtol=1e-5)
    np.testing.assert_array_equal(value[:, 1], np.zeros(4))
    head = layer.heads[0]
    bias = next(g for v, g in zip(layer.trainable_variables, gradients, strict=True) if v is head.bias)
    assert np.all(bias.numpy()[[1, 3]] == 0.0)
    assert np.all(bias.numpy()[[0, 2, 4]] != 0.0)


@pytest.mark.parametrize("name", layers.LIKELIHOODS)
def test_layers_are_built_again_from_their_configuration(name):
    layer = _layer(name, moments=MOMENTS, missing_values=True)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    z = np.float32(RNG.normal(size=[2, 3]))
    assert type(again) is type(layer)
    np.testing.assert_array_equal(again(z).mean(), layer(z).mean())
    x = np.float32(np.full([2, UNITS], 1.0))
    np.testing.assert_array_equal(again(z).log_prob(x), layer(z).log_prob(x))


def test_preprocessing_standardises_and_masks():
    x = np.float32([[1.0, np.nan, 5.0]])
    layer = layers.Preprocessing([1.0, 0.0, 1.0], [2.0, 3.0, 4.0], missing_values=True, mask_input=True)
    np.testing.assert_allclose(layer(x), [[0.0, 0.0, 1.0, 1.0, 0.0, 1.0]])
    np.testing.assert_allclose(layers.Preprocessing(logarithm=True)(x[:, [0, 2]]), np.log1p([[1.0, 5.0]]), rtol=1e-6)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(again(x), layer(x))


def test_supports_tell_how_images_become_x():
    assert supports.BINARY.is_binary
    assert not supports.BINARY.is_unit_interval
    assert supports.UNIT_INTERVAL.is_unit_interval
    assert supports.levels(2) != supports.BINARY


@pytest.mark.parametrize("name", layers.LIKELIHOODS)
def test_mixed_precision_rounds_no_parameter(name):
    """The evaluation is that of float32, also where a layer owns weights, which Keras would round."""
    x = np.float32(RNG.integers(0, 2, [3, UNITS]))
    values = []
    for policy in ("float32", "mixed_bfloat16"):
        likelihood = functools.partial(layers.LIKELIHOODS[name], moments=MOMENTS)
        input_layer = layers.Preprocessing(MOMENTS.mean, MOMENTS.stddev, dtype=policy)
        pair = networks.paper_networks(
            UNITS, (2,), [(4,)], likelihood=likelihood, input_layer=input_layer, dtype=policy
        )
        values.append(models.ImportanceWeightedAutoencoder(*pair, num_samples=2, dtype=policy)(x))
    np.testing.assert_array_equal(*values)
