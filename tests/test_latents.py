"""Traversals, manifolds and posteriors, compared with the closed forms of the linear-Gaussian model."""

import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import BATCH, EVENT, assert_mean

from iwae_tf import models, networks, noise
from iwae_tf.evaluation import latents, units


def _two_units(**kwargs):
    model, log_p = linear_gaussian.build(1, latent_dims=(2,), **kwargs)
    model.compile(jit_compile=False)
    return model, log_p


def _parameters(model):
    """(matrix, bias, variance of the pixels) of p(x | z), float64."""
    p_x = model.generative.conditionals[0]
    return np.float64(p_x.matrix), np.float64(p_x.bias), np.float64(linear_gaussian.PIXEL_SCALE) ** 2


def test_with_the_exact_posterior_quadrature_yields_log_p_and_no_divergence():
    model, log_p = _two_units()
    x = linear_gaussian.data(batch=3)
    posteriors = latents.posteriors(model, x)
    np.testing.assert_allclose([posterior.log_likelihood for posterior in posteriors], log_p(x), atol=1e-3)
    np.testing.assert_allclose([posterior.kl for posterior in posteriors], 0.0, atol=1e-3)


def test_the_divergence_of_a_wider_q_is_the_closed_form():
    """With q twice as wide, KL = 2 (log 1/2 + (4 - 1) / 2)."""
    model, log_p = _two_units(widen=2.0)
    x = linear_gaussian.data(batch=2)
    for posterior, expected in zip(latents.posteriors(model, x), log_p(x), strict=True):
        assert posterior.log_likelihood == pytest.approx(expected, abs=1e-3)
        assert posterior.kl == pytest.approx(3.0 - 2.0 * np.log(2.0), abs=1e-3)
        assert posterior.elbo == pytest.approx(posterior.log_likelihood - posterior.kl)


def test_quadrature_of_a_narrow_posterior_far_from_the_prior_and_from_q():
    model, _ = _two_units()
    p_x, q = model.generative.conditionals[0], model.inference.stochastic_layers[0]
    p_x.log_scale.assign(tf.fill([EVENT], float(np.log(0.05))))
    q.log_scale.assign([-3.0, -2.0])
    matrix, bias, _ = _parameters(model)
    x = np.float32(np.array([[5.0, -4.0]]) @ matrix + bias)
    (posterior,) = latents.posteriors(model, x)
    precision = np.diag(1.0 + np.sum(matrix**2, axis=1) / 0.05**2)
    mean = np.linalg.solve(precision, matrix @ (x[0] - bias) / 0.05**2)
    scale = np.exp([-3.0, -2.0])
    error = posterior.mean - mean
    kl = 0.5 * np.sum(np.diag(precision) * (scale**2 + error**2) - 1.0 - np.log(np.diag(precision) * scale**2))
    assert posterior.kl == pytest.approx(kl, rel=1e-3)
    covariance = matrix.T @ matrix + 0.05**2 * np.eye(EVENT)
    _, log_det = np.linalg.slogdet(2.0 * np.pi * covariance)
    exact = -0.5 * (log_det + (x[0] - bias) @ np.linalg.solve(covariance, x[0] - bias))
    assert posterior.log_likelihood == pytest.approx(exact, abs=1e-2)


def test_the_density_integrates_to_one_and_has_the_moments_of_the_posterior():
    model, _ = _two_units()
    x = linear_gaussian.data(batch=1)
    (posterior,) = latents.posteriors(model, x)
    axes = [np.linspace(low, high, 200) for low, high in zip(posterior.low, posterior.high, strict=True)]
    cell = np.prod((posterior.high - posterior.low) / 199)
    assert posterior.density.sum() * cell == pytest.approx(1.0, abs=1e-6)
    for unit, values in enumerate(axes):
        marginal = posterior.density.sum(axis=1 - unit) * cell
        assert marginal @ values == pytest.approx(posterior.mean[unit], abs=1e-4)
        variance = marginal @ (values - posterior.mean[unit]) ** 2
        assert np.sqrt(variance) == pytest.approx(posterior.stddev[unit], rel=1e-3)


def test_quadrature_agrees_with_sampling_for_a_bernoulli_decoder():
    """The ELBO is the mean log-weight, and p(x) is the mean weight."""
    built = networks.paper_networks(7, (2,), ((6, 5),), seed=1)
    model = models.ImportanceWeightedAutoencoder(*built, num_samples=3)
    model.compile(jit_compile=False)
    model(tf.zeros([1, 7]))
    for weight in model.generative.trainable_weights:
        weight.assign(3.0 * weight)
    x = np.float32([[1, 0, 0, 1, 1, 0, 1]])
    (posterior,) = latents.posteriors(model, x)
    log_weights = model.log_weights(x, 20_000, noise.key(0, "test")).numpy()[:, 0]
    assert_mean(log_weights, posterior.elbo)
    assert_mean(np.exp(log_weights - posterior.log_likelihood), 1.0)
    assert posterior.kl > 0.01


def test_the_manifold_decodes_quantiles_of_the_prior():
    model, _ = _two_units()
    matrix, bias, _ = _parameters(model)
    pixels = latents.manifold(model, side=5).reshape(5, 5, EVENT)
    left_bottom = np.array([-1.281552, -1.281552]) @ matrix + bias
    right_bottom = np.array([1.281552, -1.281552]) @ matrix + bias
    np.testing.assert_allclose(pixels[4, 0], left_bottom, atol=1e-5)
    np.testing.assert_allclose(pixels[4, 4], right_bottom, atol=1e-5)
    np.testing.assert_allclose(pixels[2, 2], bias, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_traversal_moves_one_unit_and_keeps_the_others_at_the_posterior_mean(num_layers):
    """The model is linear, so the pixels are a linear function of the moved unit."""
    model, _ = linear_gaussian.build(num_layers)
    model.compile(jit_compile=False)
    x = linear_gaussian.data()
    layers = units.measure(model, x)
    rows, pixels = latents.traversal(model, x, layers, num_units=2)
    assert pixels.shape == (BATCH, 2 * num_layers, 11, EVENT)
    assert [layer for layer, _ in rows] == sorted(2 * list(range(num_layers)))
    matrices = [np.float64(layer.matrix) for layer in model.generative.conditionals]
    bias = np.float64(model.generative.conditionals[0].bias)
    mean, down = np.float64(x), np.eye(EVENT)
    for layer, q in enumerate(model.inference.stochastic_layers):
        mean, down = mean @ np.float64(q.matrix) + np.float64(q.bias), matrices[layer] @ down
        largest = np.argsort(-layers[layer].kls)[:2]
        for row, unit in zip((2 * layer, 2 * layer + 1), largest, strict=True):
            assert rows[row] == (layer, unit)
            for column, distance in enumerate(latents.STDDEVS):
                z = mean.copy()
                z[:, unit] = layers[layer].means[unit] + distance * layers[layer].stddevs[unit]
                np.testing.assert_allclose(pixels[:, row, column], z @ down + bias, atol=1e-4)
