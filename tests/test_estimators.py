import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import BATCH, LATENT_DIMS, assert_mean

from iwae_tf import bounds, estimators, noise

KEY = noise.key(0, "test estimators")


def _flat_gradients(model, x, repetitions, num_samples):
    """Independent draws of the standard gradient, [repetitions, number of parameters]."""

    @tf.function
    def draw(key):
        _, gradients = estimators.standard(model, x, model.draw_noise(num_samples, len(x), key), key)
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)

    return np.stack([draw(noise.key(i, "test")) for i in range(repetitions)])


def test_the_elbo_gradient_of_the_inference_network_has_its_closed_form():
    """d/d log(scale) of -KL(q || posterior) is 1 - c^2 for each unit whose scale is c times the posterior's."""
    widen = 1.4
    model, _ = linear_gaussian.build(1, widen=widen, objective="vae")
    x = linear_gaussian.data()
    sizes = [int(np.prod(variable.shape)) for variable in model.trainable_variables]
    draws = _flat_gradients(model, x, 300, num_samples=20)
    by_variable = np.split(draws, np.cumsum(sizes)[:-1], axis=1)
    (q_z1,) = model.inference.stochastic_layers
    log_scale, bias, matrix = (
        next(d for v, d in zip(model.trainable_variables, by_variable, strict=True) if v is wanted)
        for wanted in (q_z1.log_scale, q_z1.bias, q_z1.matrix)
    )
    # The loss is the negative bound averaged over the batch.
    assert_mean(log_scale, np.full(LATENT_DIMS[0], widen**2 - 1.0))
    assert_mean(bias, 0.0)
    assert_mean(matrix, 0.0)


@pytest.mark.parametrize("objective", ["iwae", "vae"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_standard_gradient_is_that_of_the_bound(objective, num_layers):
    """By finite differences along a random direction, on the same noise."""
    model, _ = linear_gaussian.build(num_layers, widen=1.3, objective=objective)
    x = linear_gaussian.data()
    eps = model.draw_noise(6, BATCH, noise.key(0, "test"))
    terms, gradients = estimators.standard(model, x, eps, KEY)
    rng = np.random.default_rng(0)
    directions = [rng.normal(size=variable.shape).astype(np.float32) for variable in model.trainable_variables]

    def loss_at(step):
        for variable, direction in zip(model.trainable_variables, directions, strict=True):
            variable.assign_add(step * direction)
        loss = -np.mean(bounds.OBJECTIVES[objective](model.log_weight_terms(x, eps).log_weights), dtype=np.float64)
        for variable, direction in zip(model.trainable_variables, directions, strict=True):
            variable.assign_sub(step * direction)
        return loss

    np.testing.assert_allclose(-np.mean(bounds.OBJECTIVES[objective](terms.log_weights)), loss_at(0.0), rtol=1e-6)
    step = 3e-3
    numeric = (loss_at(step) - loss_at(-step)) / (2.0 * step)
    exact = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    assert exact == pytest.approx(numeric, rel=5e-3)


def test_the_iwae_gradient_weighs_the_samples_by_their_normalized_weights():
    """Equation (14) of the paper: sum_i w~_i grad log w_i, computed from single samples."""
    model, _ = linear_gaussian.build(2, widen=1.3, objective="iwae")
    x = linear_gaussian.data(batch=1)
    eps = model.draw_noise(4, 1, noise.key(0, "test"))
    terms, gradients = estimators.standard(model, x, eps, KEY)
    weights = bounds.normalized_weights(terms.log_weights).numpy()[:, 0]
    expected = [0.0] * len(gradients)
    for i, weight in enumerate(weights):
        _, single = estimators.standard(model, x, [e[i : i + 1] for e in eps], KEY)
        expected = [total + weight * gradient for total, gradient in zip(expected, single, strict=True)]
    for gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_systematic_resampling_draws_each_sample_by_its_share(count):
    """Its expectation is exact: over a grid of offsets, which stand for the uniform one."""
    shares = np.random.default_rng(0).dirichlet(np.full(6, 0.4)).astype(np.float32)
    grid = 4000
    offsets = (np.arange(grid, dtype=np.float32) + 0.5) / grid
    chosen = estimators.systematic_resampling(np.tile(shares[:, np.newaxis], grid), offsets, count).numpy()
    assert chosen.shape == (count, grid)
    times = np.stack([np.sum(chosen == i, axis=0) for i in range(6)])
    np.testing.assert_allclose(times.mean(axis=1), count * shares, atol=2.0 / grid)
    assert np.all(np.abs(times - count * shares[:, np.newaxis]) < 1.0 + 1e-4)


def test_systematic_resampling_survives_sums_below_one():
    shares = np.array([[0.5], [0.49999]], np.float32)
    assert estimators.systematic_resampling(shares, np.array([0.9999999], np.float32), 1).numpy() == [[1]]


def _paired_t(model, x, estimator, repetitions):
    """t statistics of estimator minus standard gradient on the same samples, for every parameter."""

    @tf.function
    def difference(key):
        eps = model.draw_noise(model.num_samples, len(x), key)
        terms, exact = estimators.standard(model, x, eps, key)
        other_terms, other = estimator(model, x, eps, noise.fold_in(key, 1))
        flat = [tf.reshape(a - b, [-1]) for a, b in zip(other, exact, strict=True)]
        return tf.concat(flat, axis=0), tf.reduce_max(tf.abs(terms.log_weights - other_terms.log_weights))

    draws, errors = zip(*(difference(noise.key(i, "paired")) for i in range(repetitions)), strict=True)
    assert max(errors) < 1e-4  # No estimator changes the value.
    draws = np.stack(draws)
    return draws.mean(axis=0) / (draws.std(axis=0, ddof=1) / np.sqrt(repetitions) + 1e-12)


@pytest.mark.parametrize("objective", ["iwae", "vae"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_resampled_gradient_is_unbiased(objective, num_layers):
    model, _ = linear_gaussian.build(num_layers, widen=1.5, objective=objective, num_samples=8, num_resampled=3)
    t = _paired_t(model, linear_gaussian.data(), estimators.resampled, 400)
    assert np.max(np.abs(t)) < 4.5


def test_the_paired_test_would_see_a_bias():
    """Uniformly drawn samples have the gradient of the ELBO, not that of L_k."""

    def uniform(model, x, eps, key):
        iwae, model.bound = model.bound, bounds.elbo
        result = estimators.resampled(model, x, eps, key)
        model.bound = iwae
        return result

    model, _ = linear_gaussian.build(2, widen=1.5, objective="iwae", num_samples=8, num_resampled=3)
    assert np.max(np.abs(_paired_t(model, linear_gaussian.data(), uniform, 400))) > 8.0


def test_resampling_all_of_equal_weights_is_the_standard_gradient():
    model, _ = linear_gaussian.build(2, widen=1.5, objective="vae", num_samples=8, num_resampled=8)
    x = linear_gaussian.data()
    eps = model.draw_noise(8, BATCH, KEY)
    for exact, other in zip(
        estimators.standard(model, x, eps, KEY)[1], estimators.resampled(model, x, eps, KEY)[1], strict=True
    ):
        np.testing.assert_allclose(other, exact, rtol=1e-4, atol=1e-5)
