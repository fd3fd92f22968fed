import itertools
import math

import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies
from linear_gaussian import assert_mean

from iwae_tf import bounds

# In float64 the identities hold to 1e-9. Untrained models have log-weights of up to +-1e4.
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
    maximum = log_weights.max(axis=0)
    expected = np.log(np.mean(np.exp(log_weights - maximum), axis=0)) + maximum
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
    """Theorem 1 of the paper without sampling noise: the mean over the bounds that leave out one sample."""
    hypothesis.assume(len(log_weights) > 1)
    without_one = [
        bounds.iwae_bound(tf.constant(np.delete(log_weights, i, axis=0))).numpy() for i in range(len(log_weights))
    ]
    assert np.all(np.mean(without_one, axis=0) <= bounds.iwae_bound(tf.constant(log_weights)).numpy() + 1e-9)


def test_one_sample_makes_both_bounds_the_log_weight():
    log_weights = tf.random.stateless_normal([1, 4], [0, 0])
    np.testing.assert_array_equal(bounds.iwae_bound(log_weights), log_weights[0])
    np.testing.assert_array_equal(bounds.elbo(log_weights), log_weights[0])


def test_effective_sample_size_at_its_extremes():
    equal = tf.zeros([6, 2])
    one_dominates = tf.constant([[0.0, 0.0], [-1e4, -1e4]])
    np.testing.assert_allclose(bounds.effective_sample_size(equal), 6.0, rtol=1e-6)
    np.testing.assert_allclose(bounds.effective_sample_size(one_dominates), 1.0, rtol=1e-6)


PARAMETERS = {"iwae": (), "vae": (), "miwae": (3,), "piwae": (3,), "ciwae": (0.3,), "vr": (0.4,), "jackknife": ()}


def _weights(num_samples=12, batch=5, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(scale=2.0, size=(num_samples, batch)))


def _value(name, *parameters, log_weights):
    return bounds.objective(name, *parameters).generative.value(log_weights)


@pytest.mark.parametrize(
    ("special_case", "same_as"),
    [
        (("miwae", 12), ("vae",)),
        (("miwae", 1), ("iwae",)),
        (("ciwae", 1.0), ("vae",)),
        (("ciwae", 0.0), ("iwae",)),
        (("vr", 0.0), ("iwae",)),
        (("vr", 1.0), ("vae",)),
        (("piwae", 3), ("iwae",)),
    ],
)
def test_special_cases_of_objectives_are_other_objectives(special_case, same_as):
    log_weights = _weights()
    first, second = bounds.objective(*special_case), bounds.objective(*same_as)
    np.testing.assert_allclose(first.generative.value(log_weights), second.generative.value(log_weights), rtol=1e-12)
    if first.name != "piwae":  # Its inference network has a different bound.
        for function, expected in zip(first.inference, second.inference, strict=True):
            np.testing.assert_allclose(function(log_weights), expected(log_weights), rtol=1e-12)


@pytest.mark.parametrize("name", PARAMETERS)
def test_both_networks_share_one_bound_except_in_piwae_and_jackknife(name):
    objective = bounds.objective(name, *PARAMETERS[name])
    assert (objective.name, objective.parameters) == (name, PARAMETERS[name])
    assert (objective.generative is objective.inference) == (name not in ("piwae", "jackknife"))


def test_miwae_groups_consecutive_samples():
    log_weights = _weights(12)
    groups = [bounds.iwae_bound(log_weights[i : i + 4]) for i in (0, 4, 8)]
    np.testing.assert_allclose(_value("miwae", 3, log_weights=log_weights), np.mean(groups, axis=0))
    assert bounds.objective("piwae", 3).inference.value(log_weights).numpy() == pytest.approx(np.mean(groups, axis=0))


def test_the_renyi_bound_falls_from_the_maximum_to_the_elbo_as_alpha_grows():
    log_weights = _weights()
    values = [_value("vr", alpha, log_weights=log_weights) for alpha in (-math.inf, -50.0, -2.0, 0.0, 0.5, 0.999, 1.0)]
    assert all(np.all(a >= b) for a, b in itertools.pairwise(values))
    np.testing.assert_allclose(values[0], np.max(log_weights, axis=0))
    np.testing.assert_allclose(values[1], values[0], atol=math.log(12) / 51)
    np.testing.assert_allclose(values[-2], values[-1], atol=0.01)


def test_the_jackknife_agrees_with_its_definition():
    log_weights = _weights(4, 3).numpy()
    left_out = [bounds.iwae_bound(np.delete(log_weights, i, axis=0)) for i in range(4)]
    expected = 4 * bounds.iwae_bound(log_weights) - 3 * np.mean(left_out, axis=0)
    np.testing.assert_allclose(_value("jackknife", log_weights=tf.constant(log_weights)), expected)


def test_the_jackknife_removes_the_bias_of_order_one_over_k():
    """For log-normal weights E[L_k] - log E[w] = a/k + b/k^2 + O(1/k^3), where the cumulants of w give a and b."""
    scale, k = 0.5, 10
    log_weights = tf.constant(np.random.default_rng(0).normal(scale=scale, size=(k, 200_000)))
    exact = scale**2 / 2
    second = math.expm1(scale**2)
    third = second**2 * (math.exp(scale**2) + 2.0)
    a, b = -second / 2.0, third / 3.0 - 3.0 * second**2 / 4.0
    plain, corrected = (_value(name, log_weights=log_weights).numpy() - exact for name in ("iwae", "jackknife"))
    assert_mean(plain, a / k + b / k**2)
    assert_mean(corrected, -b / (k * (k - 1)))
    assert abs(a / k) > 30.0 * plain.std() / math.sqrt(plain.size)  # The test would see the bias.


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shift_of_the_log_weights_shifts_every_bound_and_keeps_it_finite(name):
    log_weights = _weights()
    value = _value(name, *PARAMETERS[name], log_weights=log_weights)
    for shift in (-1e4, 1e4):
        moved = _value(name, *PARAMETERS[name], log_weights=log_weights + shift)
        np.testing.assert_allclose(moved, value + shift, atol=1e-6)
        single = tf.cast(log_weights + shift, tf.float32)
        assert np.all(np.isfinite(_value(name, *PARAMETERS[name], log_weights=single)))


@pytest.mark.parametrize("name", PARAMETERS)
def test_bounds_and_derivatives_are_finite_for_log_weights_far_apart(name):
    """From -1e4 to 1e4 for one image, in single precision."""
    rng = np.random.default_rng(0)
    log_weights = tf.constant(rng.choice([-1e4, -3.0, 0.0, 1e4], size=(6, 50)).astype(np.float32))
    objective = bounds.objective(name, *PARAMETERS[name])
    for bound in (objective.generative, objective.inference):
        with tf.GradientTape() as tape:
            tape.watch(log_weights)
            value = bound.value(log_weights)
        assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(tape.gradient(value, log_weights)))
        assert bound.path_weights is None or np.all(np.isfinite(bound.path_weights(log_weights)))
    assert np.all(np.isfinite(bounds.effective_sample_size(log_weights)))


@pytest.mark.parametrize("name", PARAMETERS)
def test_path_weights_are_the_first_derivatives_minus_the_second(name):
    """By automatic differentiation: copy i differentiates only log w_i, so the second derivatives are the diagonal."""
    log_weights = _weights(6, 2)
    live = tf.eye(6, dtype=tf.float64)[:, :, tf.newaxis]
    objective = bounds.objective(name, *PARAMETERS[name])
    bound = objective.inference
    with tf.GradientTape() as second:
        second.watch(log_weights)
        with tf.GradientTape() as first:
            first.watch(log_weights)
            copies = live * log_weights + (1.0 - live) * tf.stop_gradient(log_weights)
            total = tf.add_n([tf.reduce_sum(bound.value(copy)) for copy in tf.unstack(copies)])
        derivatives = first.gradient(total, log_weights)
    diagonal = second.gradient(derivatives, log_weights, unconnected_gradients="zero")
    np.testing.assert_allclose(bound.path_weights(log_weights), derivatives - diagonal, atol=1e-10)


def test_the_jackknife_is_precise_in_single_precision():
    """It is k times a difference, which would lose precision for large log-weights."""
    log_weights = tf.constant(np.random.default_rng(0).normal(scale=3.0, size=(200, 20)))
    exact = _value("jackknife", log_weights=log_weights)
    for shift in (-90.0, -1e4):
        single = _value("jackknife", log_weights=tf.cast(log_weights + shift, tf.float32))
        rounding = abs(shift) * np.finfo(np.float32).eps
        np.testing.assert_allclose(single, exact + shift, atol=2.0 * rounding + 1e-3)


def test_the_renyi_bound_is_at_most_the_iwae_bound_for_positive_alpha():
    log_weights = _weights()
    for alpha in (0.3, 1.0, 1.5, 5.0):
        assert np.all(_value("vr", alpha, log_weights=log_weights) <= bounds.iwae_bound(log_weights))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("miwae", ()), ("piwae", (0,)), ("ciwae", (1.5,)), ("ciwae", (math.nan,)), ("vr", (math.inf,)), ("iwae", (3,))],
)
def test_objectives_refuse_wrong_parameters(name, parameters):
    with pytest.raises(ValueError, match=f"^objective '{name}' needs .*, but was given"):
        bounds.objective(name, *parameters)


def test_an_unknown_objective_name_is_refused():
    with pytest.raises(ValueError, match="must be one of iwae, vae"):
        bounds.objective("elbo")
