"""Annealed importance sampling against exact values of log p(x)."""

import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import assert_mean

import iwae_tf
from iwae_tf import networks
from iwae_tf.evaluation import annealing, latents

IMAGES = 4


def _annealer(model, num_transitions, start="posterior", num_leapfrog=3, seed=0):
    schedule = annealing.Schedule(annealing.temperatures(num_transitions), num_leapfrog, start)
    return annealing.Annealer(model, schedule, seed)


def _log_weights(annealer, x, num_chains, z=None, step_size=0.3):
    """The log-weights of forward chains, or of reverse ones that start at z."""
    count = annealer.schedule.num_transitions
    step_sizes = np.full([count, len(x)], step_size, np.float32)
    if z is None:
        chains = annealer.begin(x, num_chains, 0, "forward")
        return annealer.forward(x, chains, step_sizes, 0, count, 0).log_weights.numpy()
    chains = annealer.begin_at(x, z, num_chains)
    return annealer.reverse(x, chains, step_sizes, 0, count, 0).log_weights.numpy()


def _relative_weights(num_layers, num_transitions, start, num_chains=3000, **kwargs):
    """exp(log_weights) / p(x), whose mean should be one."""
    model, log_p = linear_gaussian.build(num_layers, widen=1.3)
    model.jit_compile = False
    x = linear_gaussian.data(IMAGES)
    return np.exp(_log_weights(_annealer(model, num_transitions, start), x, num_chains, **kwargs) - log_p(x))


@pytest.mark.parametrize(
    ("num_layers", "start"),
    [(2, "posterior"), (2, "prior"), pytest.param(1, "posterior", marks=pytest.mark.slow)],
)
def test_the_mean_weight_is_p_of_x_even_with_few_temperatures(num_layers, start):
    weights = _relative_weights(num_layers, num_transitions=8, start=start, num_chains=6000)
    assert_mean(weights, 1.0)


@pytest.mark.slow
def test_without_the_metropolis_step_it_is_not(monkeypatch):
    """At large steps, where it matters."""
    assert_mean(_relative_weights(2, 8, "posterior", step_size=1.1), 1.0)
    monkeypatch.setattr(annealing.noise, "uniform", lambda shape, key: -tf.ones(shape))
    with pytest.raises(AssertionError, match="standard errors away"):
        assert_mean(_relative_weights(2, 8, "posterior", step_size=1.1), 1.0)


@pytest.mark.parametrize(
    ("num_layers", "start"),
    [(1, "posterior"), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(2, "posterior"), (2, "prior")])],
)
def test_forward_and_reverse_chains_enclose_log_p_and_meet(num_layers, start):
    """On data of the model; the widths are those of single chains, so the bounds are strict."""
    model, log_p = linear_gaussian.build(num_layers, widen=1.6)
    x, z = annealing.simulated(model, 200, seed=1)
    gaps = []
    for num_transitions in (4, 64):
        annealer = _annealer(model, num_transitions, start)
        below, above = (_log_weights(annealer, x, 1, at)[0] - log_p(x) for at in (None, z))
        for errors, sign in ((below, -1.0), (above, 1.0)):
            assert sign * errors.mean() > -3.0 * errors.std() / np.sqrt(len(errors))
        gaps.append(above.mean() - below.mean())
    assert gaps[0] > 0.2
    assert gaps[1] < 0.3 * gaps[0]


@pytest.mark.slow
def test_the_posterior_as_a_proposal_gives_the_exact_value_with_one_temperature():
    model, log_p = linear_gaussian.build(2)
    x = linear_gaussian.data(IMAGES)
    log_weights = _log_weights(_annealer(model, 1), x, 3)
    np.testing.assert_allclose(log_weights, np.tile(log_p(x), (3, 1)), atol=1e-4)
    x, z = annealing.simulated(model, IMAGES)
    np.testing.assert_allclose(_log_weights(_annealer(model, 1), x, 2, z), np.tile(log_p(x), (2, 1)), atol=1e-4)


def test_simulated_images_have_the_distribution_of_the_model():
    model, log_p = linear_gaussian.build(2)
    x, z = annealing.simulated(model, 4000)
    assert [z_l.shape for z_l in z] == [(4000, d) for d in model.inference.latent_dims]
    assert_mean(x, model.generative.conditionals[0].bias.numpy())
    terms = model.terms_at(x, [z_l[np.newaxis] for z_l in z])
    posterior = tf.add_n(terms.log_q_z_given_x)[0] - (terms.log_weights[0] - log_p(x))
    # q is the posterior, so z is a sample of it: log q(z | x) = log p(z | x), and its mean is minus the entropy.
    q = model.inference.distributions(tf.constant(x), [tf.constant(z_l)[tf.newaxis] for z_l in z])
    np.testing.assert_allclose(posterior, tf.add_n(terms.log_q_z_given_x)[0], atol=2e-3)
    assert_mean(terms.log_q_z_given_x[0][0].numpy(), -q[0].entropy()[0])


def test_parts_of_a_run_give_the_bits_of_the_whole():
    model, _ = linear_gaussian.build(2, widen=1.3)
    x = linear_gaussian.data(IMAGES)
    annealer = _annealer(model, 10)
    chains = annealer.begin(x, 3, 0, "pilot")
    whole, step_sizes = annealer.pilot(x, chains, 0, 10, group=2)
    first, first_sizes = annealer.pilot(x, chains, 0, 4, group=2)
    rest, rest_sizes = annealer.pilot(x, first, 4, 10, group=2)
    for a, b in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(step_sizes, np.concatenate([first_sizes, rest_sizes]))
    chains = annealer.begin(x, 3, 0, "forward")
    whole = annealer.forward(x, chains, step_sizes, 0, 10, 2)
    rest = annealer.forward(x, annealer.forward(x, chains, step_sizes, 0, 7, 2), step_sizes, 7, 10, 2)
    for a, b in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_pilot_finds_step_sizes_with_the_wanted_acceptance():
    model, _ = linear_gaussian.build(2, widen=1.3)
    x = linear_gaussian.data(IMAGES)
    annealer = _annealer(model, 200)
    _, step_sizes = annealer.pilot(x, annealer.begin(x, 20, 0, "pilot"), 0, 200, 0)
    chains = annealer.forward(x, annealer.begin(x, 20, 0, "forward"), step_sizes, 0, 200, 0)
    acceptance = chains.acceptance.numpy() / 200
    np.testing.assert_allclose(acceptance, annealing._TARGET_ACCEPTANCE, atol=0.1)


def _bernoulli_model(latent_dims, hidden_dims, **kwargs):
    model = iwae_tf.ImportanceWeightedAutoencoder(
        *iwae_tf.paper_networks(9, latent_dims, hidden_dims, seed=2, **kwargs), num_samples=1
    )
    model.compile(jit_compile=False)
    for variable in model.generative.conditionals[0].trainable_variables:
        variable.assign(2.0 * variable)
    # q close to the prior: one that is too narrow needs many temperatures.
    for variable in model.inference.trainable_variables:
        variable.assign(0.1 * variable)
    return model


@pytest.mark.parametrize("start", ["posterior", pytest.param("prior", marks=pytest.mark.slow)])
def test_two_latent_units_against_quadrature(start):
    model = _bernoulli_model((2,), ((6,),))
    x = np.random.default_rng(0).integers(0, 2, [3, 9]).astype(np.float32)
    exact = [posterior.log_likelihood for posterior in latents.posteriors(model, x)]
    weights = np.exp(_log_weights(_annealer(model, 20, start), x, 2000) - exact)
    assert_mean(weights, 1.0)


@pytest.mark.parametrize("start", ["posterior", pytest.param("prior", marks=pytest.mark.slow)])
def test_the_ladder_is_annealed(start):
    model = _bernoulli_model((3, 2), ((6,), (5,)), inference="ladder")
    assert isinstance(model.inference, networks.LadderInference)
    x, z = annealing.simulated(model, 30)
    below = annealing.lower(_log_weights(_annealer(model, 40, start), x, 50))
    above = annealing.upper(_log_weights(_annealer(model, 40, start), x, 50, z))
    gap = above - below.values
    assert gap.mean() < 0.2
    assert gap.mean() > -4.0 * gap.std() / np.sqrt(len(gap))


def test_temperatures_rise_from_zero_to_one_more_slowly_at_the_ends():
    b = annealing.temperatures(10)
    assert (b[0], b[-1]) == (0.0, 1.0)
    steps = np.diff(b)
    assert np.all(steps > 0.0)
    np.testing.assert_allclose(steps, steps[::-1])
    assert steps[0] < 0.5 * steps[5]
    np.testing.assert_array_equal(annealing.temperatures(1), [0.0, 1.0])


def test_estimates_of_given_weights():
    log_weights = np.log([[1.0, 5.0], [3.0, 5.0]]) - 1000.0
    estimate = annealing.lower(log_weights)
    np.testing.assert_allclose(estimate.values, np.log([2.0, 5.0]) - 1000.0)
    np.testing.assert_allclose(estimate.stderrs, [np.sqrt(2.0) / (2.0 * np.sqrt(2.0)), 0.0], atol=1e-12)
    np.testing.assert_allclose(estimate.effective_sample_sizes, [16.0 / 10.0, 2.0])
    np.testing.assert_allclose(annealing.upper(log_weights), -np.log([2.0 / 3.0, 0.2]) - 1000.0)
