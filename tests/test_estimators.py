import itertools

import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import BATCH, LATENT_DIMS, assert_mean

from iwae_tf import bounds, compatibility, estimators, models, networks, noise

KEY = noise.key(0, "test estimators")


def _flat_gradients(model, x, repetitions, num_samples):
    """Independent draws of the standard gradient, [repetitions, number of parameters]."""

    @tf.function
    def draw(key):
        _, gradients = estimators.standard(model, x, model.draw_epsilon(num_samples, len(x), key), 1.0, key)
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)

    return np.stack([draw(noise.key(i, "test")) for i in range(repetitions)])


def test_the_elbo_gradient_of_the_inference_network_is_the_closed_form():
    """d/d log(scale) of -KL(q || posterior) is 1 - c^2 for a unit whose scale is c times that of the posterior."""
    widen = 1.4
    model, _ = linear_gaussian.build(1, widen=widen, objective="vae")
    x = linear_gaussian.data()
    sizes = [int(np.prod(variable.shape)) for variable in model.trainable_variables]
    draws = _flat_gradients(model, x, 300, num_samples=20)
    variable_draws = np.split(draws, np.cumsum(sizes)[:-1], axis=1)
    (q_z1,) = model.inference.stochastic_layers
    log_scale, bias, matrix = (
        next(d for v, d in zip(model.trainable_variables, variable_draws, strict=True) if v is wanted)
        for wanted in (q_z1.log_scale, q_z1.bias, q_z1.matrix)
    )
    # The loss is the negative bound averaged over the batch.
    assert_mean(log_scale, np.full(LATENT_DIMS[0], widen**2 - 1.0))
    assert_mean(bias, 0.0)
    assert_mean(matrix, 0.0)


@pytest.mark.parametrize("objective", ["iwae", "vae"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_standard_gradient_agrees_with_finite_differences_of_the_bound(objective, num_layers):
    """Along a random direction, at the same epsilon."""
    model, _ = linear_gaussian.build(num_layers, widen=1.3, objective=objective)
    x = linear_gaussian.data()
    epsilon = model.draw_epsilon(6, BATCH, noise.key(0, "test"))
    terms, gradients = estimators.standard(model, x, epsilon, 1.0, KEY)
    bound = bounds.objective(objective).generative.value
    rng = np.random.default_rng(0)
    directions = [rng.normal(size=variable.shape).astype(np.float32) for variable in model.trainable_variables]

    def loss_at(step):
        for variable, direction in zip(model.trainable_variables, directions, strict=True):
            variable.assign_add(step * direction)
        loss = -np.mean(bound(model.log_weight_terms(x, epsilon).log_weights), dtype=np.float64)
        for variable, direction in zip(model.trainable_variables, directions, strict=True):
            variable.assign_sub(step * direction)
        return loss

    np.testing.assert_allclose(-np.mean(bound(terms.log_weights)), loss_at(0.0), rtol=1e-6)
    step = 3e-3
    numeric = (loss_at(step) - loss_at(-step)) / (2.0 * step)
    exact = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    assert exact == pytest.approx(numeric, rel=5e-3)


def test_the_iwae_gradient_weights_the_samples_by_their_normalized_weights():
    """Equation (14) of the paper, sum_i w~_i grad log w_i, computed from single samples."""
    model, _ = linear_gaussian.build(2, widen=1.3, objective="iwae")
    x = linear_gaussian.data(batch=1)
    epsilon = model.draw_epsilon(4, 1, noise.key(0, "test"))
    terms, gradients = estimators.standard(model, x, epsilon, 1.0, KEY)
    weights = bounds.normalized_weights(terms.log_weights).numpy()[:, 0]
    expected = [0.0] * len(gradients)
    for i, weight in enumerate(weights):
        _, single = estimators.standard(model, x, [epsilon_l[i : i + 1] for epsilon_l in epsilon], 1.0, KEY)
        expected = [total + weight * gradient for total, gradient in zip(expected, single, strict=True)]
    for gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_systematic_resampling_draws_each_sample_in_proportion_to_its_share(count):
    """A grid of offsets replaces the uniform offset, so the expectation is exact."""
    shares = np.random.default_rng(0).dirichlet(np.full(6, 0.4)).astype(np.float32)
    grid = 4000
    offsets = (np.arange(grid, dtype=np.float32) + 0.5) / grid
    chosen = estimators.systematic_resampling(np.tile(shares[:, np.newaxis], grid), offsets, count).numpy()
    assert chosen.shape == (count, grid)
    times = np.stack([np.sum(chosen == i, axis=0) for i in range(6)])
    np.testing.assert_allclose(times.mean(axis=1), count * shares, atol=2.0 / grid)
    assert np.all(np.abs(times - count * shares[:, np.newaxis]) < 1.0 + 1e-4)


def test_systematic_resampling_allows_a_sum_of_shares_below_one():
    shares = np.array([[0.5], [0.49999]], np.float32)
    assert estimators.systematic_resampling(shares, np.array([0.9999999], np.float32), 1).numpy() == [[1]]


def _paired_t(model, x, estimator, repetitions=400, beta=1.0):
    """Returns t statistics of estimator minus standard gradient on the same samples, for every parameter."""

    def difference(i):
        key = noise.key(i, "paired")
        epsilon = model.draw_epsilon(model.num_samples, len(x), key)
        terms, exact = estimators.standard(model, x, epsilon, beta, key)
        other_terms, other = estimator(model, x, epsilon, beta, noise.fold_in(key, 1))
        flat = [tf.reshape(a - b, [-1]) for a, b in zip(other, exact, strict=True)]
        return tf.concat(flat, axis=0), tf.reduce_max(tf.abs(terms.log_weights - other_terms.log_weights))

    repeat = tf.function(lambda n: tf.map_fn(difference, tf.range(n), fn_output_signature=(tf.float32, tf.float32)))
    draws, errors = repeat(repetitions)
    assert np.max(errors) < 1e-4  # The value does not depend on the estimator.
    draws = draws.numpy().astype(np.float64)
    # Differences of the size of float rounding do not count as bias.
    return draws.mean(axis=0) / (draws.std(axis=0, ddof=1) / np.sqrt(repetitions) + 1e-6)


@pytest.mark.parametrize("objective", ["iwae", "vae"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_resampled_gradient_is_unbiased(objective, num_layers):
    model, _ = linear_gaussian.build(num_layers, widen=1.5, objective=objective, num_samples=8, num_resampled=3)
    t = _paired_t(model, linear_gaussian.data(), estimators.resampled)
    assert np.max(np.abs(t)) < 4.5


def test_the_paired_test_detects_resampling_with_wrong_shares():
    """Uniformly drawn samples have the gradient of the ELBO, not the gradient of L_k."""

    def uniform(model, x, epsilon, beta, key):
        iwae, model.objective = model.objective, bounds.objective("vae")
        result = estimators.resampled(model, x, epsilon, beta, key)
        model.objective = iwae
        return result

    model, _ = linear_gaussian.build(2, widen=1.5, objective="iwae", num_samples=8, num_resampled=3)
    assert np.max(np.abs(_paired_t(model, linear_gaussian.data(), uniform))) > 8.0


def test_resampling_all_samples_of_equal_share_gives_the_standard_gradient():
    model, _ = linear_gaussian.build(2, widen=1.5, objective="vae", num_samples=8, num_resampled=8)
    x = linear_gaussian.data()
    epsilon = model.draw_epsilon(8, BATCH, KEY)
    for exact, other in zip(
        estimators.standard(model, x, epsilon, 1.0, KEY)[1],
        estimators.resampled(model, x, epsilon, 1.0, KEY)[1],
        strict=True,
    ):
        np.testing.assert_allclose(other, exact, rtol=1e-4, atol=1e-5)


OBJECTIVES = {
    "iwae": (),
    "vae": (),
    "miwae": (2,),
    "piwae": (2,),
    "ciwae": (0.3,),
    "vr": (0.4,),
    "jackknife": (),
}


def _objective(name):
    return bounds.objective(name, *OBJECTIVES[name])


def _gradients(model, x, estimator, beta=1.0):
    epsilon = model.draw_epsilon(model.num_samples, len(x), noise.key(3, "test"))
    return estimator(model, x, epsilon, tf.constant(beta), KEY)[1]


def _of(network, model, gradients):
    """Returns the gradients of the variables of one network."""
    ids = {id(variable) for variable in network.trainable_variables}
    return [g for v, g in zip(model.trainable_variables, gradients, strict=True) if id(v) in ids]


@pytest.mark.parametrize("estimator", [estimators.stl, estimators.dreg])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_stl_and_dreg_gradients_vanish_at_the_true_posterior(num_layers, estimator):
    """Every single draw vanishes, while the standard gradient has the score function's term."""
    model, _ = linear_gaussian.build(num_layers, num_samples=6)
    x = linear_gaussian.data()
    path = _of(model.inference, model, _gradients(model, x, estimator))
    standard = _of(model.inference, model, _gradients(model, x, estimators.standard))
    assert max(np.max(np.abs(g)) for g in path) < 2e-5
    assert max(np.max(np.abs(g)) for g in standard) > 1e-2


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("estimator", [estimators.stl, estimators.dreg])
def test_stl_and_dreg_have_the_standard_generative_gradient(estimator, name):
    model, _ = linear_gaussian.build(2, widen=1.3, objective=_objective(name), num_samples=6)
    x = linear_gaussian.data()
    for beta in (1.0, 0.3):
        for exact, other in zip(
            _of(model.generative, model, _gradients(model, x, estimators.standard, beta)),
            _of(model.generative, model, _gradients(model, x, estimator, beta)),
            strict=True,
        ):
            np.testing.assert_allclose(other, exact, rtol=2e-4, atol=2e-5)


def test_rws_has_the_standard_generative_gradient():
    model, _ = linear_gaussian.build(2, widen=1.3, num_samples=6)
    x = linear_gaussian.data()
    for exact, other in zip(
        _of(model.generative, model, _gradients(model, x, estimators.standard)),
        _of(model.generative, model, _gradients(model, x, estimators.rws)),
        strict=True,
    ):
        np.testing.assert_allclose(other, exact, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_wake_phase_gradient_is_zero_in_expectation_at_the_true_posterior(num_layers):
    """At q = p(z | x) all weights are equal, so the gradient is the mean score."""
    model, _ = linear_gaussian.build(num_layers, num_samples=20)
    x = linear_gaussian.data()

    @tf.function
    def draw(key):
        gradients = estimators.rws(model, x, model.draw_epsilon(20, len(x), key), 1.0, key)[1]
        return tf.concat([tf.reshape(g, [-1]) for g in _of(model.inference, model, gradients)], axis=0)

    assert_mean(np.stack([draw(noise.key(i, "wake")) for i in range(300)]), 0.0)


def test_the_wake_phase_narrows_a_proposal_that_is_too_wide():
    """d KL(p || q) / d log(scale) is 1 - 1/c^2 for a unit whose scale is c times that of the posterior.

    Self-normalised weights have a bias, which is -E_q[w^2 (f - E_p[f])] / k to first order, for w = p / q and the score
    f. With v = c^2 / (2 c^2 - 1), E_q[w^2] of one unit is c v^(1/2), and under p^2 / q a unit has the variance v.
    """
    widen, k = 1.4, 2000
    model, _ = linear_gaussian.build(1, widen=widen, num_samples=k)
    x = linear_gaussian.data()
    (q_z1,) = model.inference.stochastic_layers

    @tf.function
    def draw(key):
        gradients = estimators.rws(model, x, model.draw_epsilon(k, len(x), key), 1.0, key)[1]
        return next(g for v, g in zip(model.trainable_variables, gradients, strict=True) if v is q_z1.log_scale)

    draws = np.stack([draw(noise.key(i, "wake")) for i in range(200)])
    v = widen**2 / (2.0 * widen**2 - 1.0)
    bias = -((widen * np.sqrt(v)) ** LATENT_DIMS[0]) * (1.0 - v) / widen**2 / k
    assert_mean(draws, 1.0 - widen**-2 + bias)


_IN_SHORT = [(1, "iwae"), (2, "iwae"), (3, "iwae"), (2, "piwae"), (1, "vr"), (1, "jackknife")]
_IN_FULL = [case for case in itertools.product((1, 2, 3), OBJECTIVES) if case not in _IN_SHORT]


@pytest.mark.parametrize(
    ("num_layers", "name"), [*_IN_SHORT, *(pytest.param(*case, marks=pytest.mark.slow) for case in _IN_FULL)]
)
def test_dreg_is_unbiased(num_layers, name):
    model, _ = linear_gaussian.build(num_layers, widen=1.5, objective=_objective(name), num_samples=4)
    assert np.max(np.abs(_paired_t(model, linear_gaussian.data(), estimators.dreg, 600))) < 4.7


def test_dreg_is_unbiased_during_a_warm_up():
    model, _ = linear_gaussian.build(2, widen=1.5, num_samples=4)
    assert np.max(np.abs(_paired_t(model, linear_gaussian.data(), estimators.dreg, 600, beta=0.3))) < 4.7


@pytest.mark.parametrize("num_layers", [1, 2])
def test_stl_is_unbiased_for_the_vae_and_biased_for_many_samples(num_layers):
    """The second half shows that the paired test has power."""
    x = linear_gaussian.data()
    model, _ = linear_gaussian.build(num_layers, widen=1.5, objective="vae", num_samples=4)
    assert np.max(np.abs(_paired_t(model, x, estimators.stl, 600))) < 4.7
    model, _ = linear_gaussian.build(num_layers, widen=1.5, objective="iwae", num_samples=4)
    assert np.max(np.abs(_paired_t(model, x, estimators.stl, 600))) > 8.0


@pytest.mark.parametrize("num_layers", [1, 3])
def test_one_sample_makes_dreg_and_stl_equal(num_layers):
    model, _ = linear_gaussian.build(num_layers, widen=1.5, num_samples=1)
    x = linear_gaussian.data()
    for a, b in zip(_gradients(model, x, estimators.stl), _gradients(model, x, estimators.dreg), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def _ladder(**kwargs):
    """Returns a Ladder VAE with small layers and asymmetric weights, and x."""
    inference, generative = networks.paper_networks(
        7, (4, 3, 2), ((6,), (5,), (4,)), inference="ladder", output_bias=np.linspace(-1.0, 1.0, 7)
    )
    model = models.ImportanceWeightedAutoencoder(inference, generative, **kwargs)
    model(tf.zeros([1, 7]))
    return model, (np.random.default_rng(0).random([5, 7]) < 0.5).astype(np.float32)


@pytest.mark.parametrize(
    ("estimator", "beta"),
    [
        ("dreg", 0.4),
        pytest.param("dreg", 1.0, marks=pytest.mark.slow),
        *(pytest.param("resampled", beta, marks=pytest.mark.slow) for beta in (1.0, 0.4)),
    ],
)
def test_gradients_of_the_ladders_shared_weights_are_unbiased(estimator, beta):
    """The gradient of a shared weight is the sum over its uses in both networks."""
    model, x = _ladder(num_samples=4, num_resampled=2)
    t = _paired_t(model, x, estimators.GRADIENT_ESTIMATORS[estimator], 800, beta=beta)
    assert np.max(np.abs(t)) < 4.9


@pytest.mark.slow
def test_the_paired_test_detects_the_bias_of_stl_in_the_ladder():
    model, x = _ladder(num_samples=4)
    assert np.max(np.abs(_paired_t(model, x, estimators.stl, 1500))) > 6.0


@pytest.mark.slow
def test_the_paired_test_detects_a_missing_path_through_q_in_the_ladder():
    """A DReG that ignores the path of shared weights through q would have this bias, and the test above detects it."""

    def without_path(model, x, epsilon, beta, key):
        terms, gradients = estimators.dreg(model, x, epsilon, beta, key)
        with tf.GradientTape() as tape:
            z, _ = model.inference(x, epsilon)
            held = model.terms_at(x, [tf.stop_gradient(z_l) for z_l in z])
            shares = tf.stop_gradient(bounds.normalized_weights(held.log_weights))
            log_p = held.log_p_x_given_z + tf.add_n(held.log_p_z)
            loss = -tf.reduce_mean(tf.reduce_sum(shares * log_p, axis=0))
        generative_only = tape.gradient(loss, model.trainable_variables)
        shared = {id(v) for layer in model.inference.conditionals for v in layer.trainable_variables}
        return terms, [
            b if id(v) in shared else a
            for v, a, b in zip(model.trainable_variables, gradients, generative_only, strict=True)
        ]

    model, x = _ladder(num_samples=4)
    assert np.max(np.abs(_paired_t(model, x, without_path, 800))) > 6.0


@pytest.mark.parametrize("estimator", estimators.GRADIENT_ESTIMATORS)
def test_the_model_accepts_exactly_the_compatible_objectives(estimator):
    for name in OBJECTIVES:
        reason = compatibility.reason_against(name, estimator, OBJECTIVES[name], num_samples=4, num_resampled=2)
        arguments = {"objective": _objective(name), "gradient_estimator": estimator}
        if reason:
            with pytest.raises(ValueError, match=name):
                linear_gaussian.build(1, num_samples=4, num_resampled=2, **arguments)
        else:
            model, _ = linear_gaussian.build(1, num_samples=4, num_resampled=2, **arguments)
            gradients = _gradients(model, linear_gaussian.data(), estimators.GRADIENT_ESTIMATORS[estimator])
            assert all(np.all(np.isfinite(g)) for g in gradients)
            assert max(np.max(np.abs(g)) for g in gradients) > 1e-3


def test_compatibility_lists_every_estimator_and_objective():
    assert tuple(compatibility.SERVES) == tuple(estimators.GRADIENT_ESTIMATORS)
    assert {name for served in compatibility.SERVES.values() for name in served} == set(bounds.OBJECTIVES)
