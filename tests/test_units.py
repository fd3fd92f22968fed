"""Statistics of the latent units, compared with closed forms and with the terms of the bound."""

import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import LATENT_DIMS, assert_mean

from iwae_tf import importance, models, networks, noise
from iwae_tf.errors import UserError
from iwae_tf.evaluation import units


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(importance, "IMAGES_PER_CALL", 4)


def _model(num_layers, **kwargs):
    model, _ = linear_gaussian.build(num_layers, **kwargs)
    model.compile(jit_compile=False)
    return model


def _paper_model(inference, batch_norm=False, dims=(3, 2)):
    built = networks.paper_networks(
        7, dims, ((6, 5), (4,))[: len(dims)], inference=inference, batch_norm=batch_norm, seed=1
    )
    model = models.ImportanceWeightedAutoencoder(*built, num_samples=3)
    model.compile(jit_compile=False)
    model(tf.zeros([1, 7]))
    return model


def test_active_units_are_those_whose_posterior_mean_varies():
    model = _model(2)
    x = linear_gaussian.data(batch=300)
    assert units.active_units(model, x) == [LATENT_DIMS[0], LATENT_DIMS[1]]
    q_z1, q_z2 = model.inference.stochastic_layers
    q_z1.matrix.assign(q_z1.matrix * np.array([1.0, 0.0, 1.0, 1e-3], np.float32))
    assert units.active_units(model, x)[0] == LATENT_DIMS[0] - 2
    q_z2.matrix.assign(q_z2.matrix * np.array([0.0, 1.0, 1.0], np.float32))
    assert units.active_units(model, x)[1] <= LATENT_DIMS[1] - 1


def test_posterior_means_average_over_the_layer_below():
    """Here E_q(z_2 | x)[z_2] is linear in the mean of q(z_1 | x), so the average over z_1 has a closed form."""
    model = _model(2)
    x = tf.constant(linear_gaussian.data())
    (first, *_), (second, posterior_variances, _) = units._statistics(model, 20_000, x, noise.key(0, "test"))
    q_z1, q_z2 = model.inference.stochastic_layers
    exact_first = x @ q_z1.matrix + q_z1.bias
    np.testing.assert_allclose(first, exact_first, atol=1e-5)
    variance = np.exp(2.0 * q_z1.log_scale.numpy()) @ q_z2.matrix.numpy() ** 2
    error = (second - (exact_first @ q_z2.matrix + q_z2.bias)) / np.sqrt(variance / 20_000)
    assert np.max(np.abs(error)) < 4.5
    exact = np.broadcast_to(np.exp(2.0 * q_z2.log_scale.numpy()) + variance, posterior_variances.shape)
    # Only the variance of the conditional means is estimated; its relative standard error is sqrt(2 / 20,000).
    error = (posterior_variances - exact) / (variance * np.sqrt(2.0 / 20_000))
    assert np.max(np.abs(error)) < 4.5


def test_a_unit_that_does_not_depend_on_x_is_not_active():
    """The average over 100 samples of z_1 keeps only a hundredth of its variance, which must not count as activity."""
    model = _model(2)
    q_z1, q_z2 = model.inference.stochastic_layers
    q_z1.matrix.assign(tf.zeros_like(q_z1.matrix))
    q_z1.log_scale.assign(tf.fill(q_z1.log_scale.shape, float(np.log(0.3))))
    q_z2.matrix.assign(tf.eye(*q_z2.matrix.shape))
    assert units.active_units(model, linear_gaussian.data(batch=200)) == [0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: _model(3, widen=1.4),
        lambda: _paper_model("bottom_up"),
        lambda: _paper_model("ladder", batch_norm=True),
        lambda: _paper_model("bottom_up", dims=(3,)),
    ],
)
def test_the_kls_of_the_units_sum_to_the_rate_of_their_layer(make):
    model = make()
    x = np.float32(linear_gaussian.data(batch=8) > 0.0)
    measured = units.measure(model, x, num_samples=5, seed=2)
    rates = []
    for start in (0, 4):
        epsilon = model.draw_epsilon(5, 4, noise.fold_in(noise.key(2, "active units"), start))
        rates.append(model.log_weight_terms(tf.constant(x[start : start + 4]), epsilon).layer_rates)
    for layer, layer_rates, size in zip(measured, zip(*rates, strict=True), model.inference.latent_dims, strict=True):
        assert layer.kls.shape == (size,)
        assert layer.kls.sum() == pytest.approx(np.mean(layer_rates), rel=1e-5)


def test_the_expected_kl_of_a_unit_is_the_closed_form():
    model = _model(1, widen=1.4)
    x = linear_gaussian.data(batch=5)
    (q,) = model.inference.stochastic_layers
    scale = np.exp(q.log_scale.numpy())
    exact = np.mean(0.5 * (scale**2 + (x @ q.matrix.numpy() + q.bias.numpy()) ** 2 - 1.0) - np.log(scale), axis=0)
    draws = [units.measure(model, x, num_samples=200, seed=seed)[0].kls for seed in range(20)]
    assert_mean(draws, exact)


def test_moments_over_all_images_do_not_depend_on_the_batches():
    """One pass with a ragged last batch and means a thousand times larger than their deviations."""
    model = _model(1)
    (q,) = model.inference.stochastic_layers
    q.bias.assign_add([1000.0, 0.0, 0.0, 0.0])
    x = linear_gaussian.data(batch=11)
    (measured,) = units.measure(model, x, num_samples=2)
    means = np.float64(q(x).mean())
    np.testing.assert_allclose(measured.means, means.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(measured.variances, means.var(axis=0), rtol=1e-4)
    scale = np.exp(q.log_scale.numpy())
    np.testing.assert_allclose(measured.stddevs, np.sqrt(means.var(axis=0) + scale**2), rtol=1e-4)
    assert measured.num_active() == 4
    assert measured.num_active(threshold=1e6) == 0


@pytest.mark.slow
def test_a_single_sample_counts_the_variance_of_the_layer_below_as_activity():
    """Nothing depends on x, but with one sample of z_1, as in the authors' code, the units of z_2 look active."""
    model = _model(2)
    q_z1, q_z2 = model.inference.stochastic_layers
    q_z1.matrix.assign(tf.zeros_like(q_z1.matrix))
    q_z2.matrix.assign(tf.eye(*q_z2.matrix.shape))
    n = 2000
    x = linear_gaussian.data(batch=n)
    for num_samples in (units.AUTHORS_NUM_SAMPLES, 100):
        _, second = units.measure(model, x, num_samples)
        # The posterior means are n independent Gaussians, so n times their sample variance is chi-squared.
        variances = np.exp(2.0 * q_z1.log_scale.numpy())[:3] / num_samples
        error = (second.variances - variances * (n - 1) / n) / (variances * np.sqrt(2.0 * (n - 1)) / n)
        assert np.max(np.abs(error)) < 4.5


def test_statistics_that_are_not_finite_are_recorded_as_none_and_can_be_refused():
    model = _model(1)
    x = linear_gaussian.data(batch=3)
    (measured,) = units.measure(model, x)
    units.refuse_infinite([measured])
    for values, again in zip(measured, units.Units.from_dict(measured.to_dict()), strict=True):
        np.testing.assert_array_equal(values, again)
    model.inference.stochastic_layers[0].bias.assign([0.0, np.inf, 0.0, 0.0])
    (measured,) = units.measure(model, x)
    with pytest.raises(UserError, match="of 1 of the 4 units in layer 1 are not finite"):
        units.refuse_infinite([measured])
    assert [value is None for value in measured.to_dict()["kls"]] == [False, True, False, False]
    assert np.isnan(units.Units.from_dict(measured.to_dict()).kls[1])
    assert measured.num_active() == 3
