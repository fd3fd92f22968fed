import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from iwae_tf import bounds

# float64 keeps the identities exact to 1e-9; log-weights up to +-1e4 as untrained models have them.
log_weights_strategy = hypothesis.extra.numpy.arrays(
    np.float64,
    hypothesis.extra.numpy.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=strategies.floats(-1e4, 1e4),
)
given_log_weights = hypothesis.given(log_weights=log_weights_strategy)
settings = hypothesis.settings(deadline=None, max_examples=60, derandomize=True)


@settings
@given_log_weights
def test_iwae_bound_lies_between_mean_and_maximum(log_weights):
    bound = bounds.iwae_bound(tf.constant(log_weights)).numpy()
    k, batch = log_weights.shape
    assert bound.shape == (batch,)
    assert np.all(bound >= bounds.elbo(tf.constant(log_weights)).numpy() - 1e-9)
    assert np.all(bound <= log_weights.max(axis=0) + 1e-9)
    assert np.all(bound >= log_weights.max(axis=0) - np.log(k) - 1e-9)


@settings
@given_log_weights
def test_iwae_bound_is_the_log_of_the_mean_weight(log_weights):
    top = log_weights.max(axis=0)
    expected = np.log(np.mean(np.exp(log_weights - top), axis=0)) + top
    np.testing.assert_allclose(bounds.iwae_bound(tf.constant(log_weights)), expected, rtol=1e-12, atol=1e-9)


@settings
@given_log_weights
def test_gradient_of_the_iwae_bound_is_the_normalized_weights(log_weights):
    log_weights = tf.constant(log_weights)
    with tf.GradientTape() as tape:
        tape.watch(log_weights)
        total = tf.reduce_sum(bounds.iwae_bound(log_weights))
    weights = bounds.normalized_weights(log_weights).numpy()
    np.testing.assert_allclose(tape.gradient(total, log_weights), weights, atol=1e-9)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-9)


@settings
@given_log_weights
def test_more_samples_never_lower_the_bound_on_average(log_weights):
    """Theorem 1 of the paper without sampling noise: the mean of the bounds that leave one sample out."""
    hypothesis.assume(len(log_weights) > 1)
    without_one = [
        bounds.iwae_bound(tf.constant(np.delete(log_weights, i, axis=0))).numpy() for i in range(len(log_weights))
    ]
    assert np.all(np.mean(without_one, axis=0) <= bounds.iwae_bound(tf.constant(log_weights)).numpy() + 1e-9)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
@pytest.mark.parametrize("objective", bounds.OBJECTIVES)
def test_bounds_move_with_the_log_weights(objective, shift):
    log_weights = np.random.default_rng(0).normal(size=(5, 3))
    bound = bounds.OBJECTIVES[objective]
    shifted = bound(tf.constant(log_weights + shift)).numpy()
    np.testing.assert_allclose(shifted, bound(tf.constant(log_weights)).numpy() + shift, rtol=1e-12)
    assert np.all(np.isfinite(bound(tf.constant(log_weights + shift, tf.float32))))


def test_one_sample_makes_both_bounds_the_log_weight():
    log_weights = tf.random.stateless_normal([1, 4], [0, 0])
    np.testing.assert_array_equal(bounds.iwae_bound(log_weights), log_weights[0])
    np.testing.assert_array_equal(bounds.elbo(log_weights), log_weights[0])


def test_effective_sample_size_at_its_extremes():
    equal = tf.zeros([6, 2])
    one_dominates = tf.constant([[0.0, 0.0], [-1e4, -1e4]])
    np.testing.assert_allclose(bounds.effective_sample_size(equal), 6.0, rtol=1e-6)
    np.testing.assert_allclose(bounds.effective_sample_size(one_dominates), 1.0, rtol=1e-6)
