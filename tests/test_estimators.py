import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import BATCH, LATENT_DIMS, assert_mean

from iwae_tf import bounds, estimators, noise


def _flat_gradients(model, x, repetitions, num_samples):
    """Independent draws of the standard gradient, [repetitions, number of parameters]."""

    @tf.function
    def draw(key):
        _, gradients = estimators.standard(model, x, model.draw_noise(num_samples, len(x), key))
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
    terms, gradients = estimators.standard(model, x, eps)
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
    terms, gradients = estimators.standard(model, x, eps)
    weights = bounds.normalized_weights(terms.log_weights).numpy()[:, 0]
    expected = [0.0] * len(gradients)
    for i, weight in enumerate(weights):
        _, single = estimators.standard(model, x, [e[i : i + 1] for e in eps])
        expected = [total + weight * gradient for total, gradient in zip(expected, single, strict=True)]
    for gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-3, atol=1e-4)
