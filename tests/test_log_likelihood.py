import signal

import linear_gaussian
import numpy as np
import pytest
import tensorflow as tf
from linear_gaussian import assert_mean

from iwae_tf import bounds, importance, noise
from iwae_tf.evaluation import log_likelihood, pareto
from iwae_tf.evaluation.estimates import Estimates
from iwae_tf.runtime import signals


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks and batches so small that everything has several of them."""
    monkeypatch.setattr(importance, "BLOCK", 7)
    monkeypatch.setattr(importance, "IMAGES_PER_CALL", 4)


def _model(num_layers, jit=False, **kwargs):
    """Most tests run without XLA, whose compilation would take most of their time."""
    model, log_p = linear_gaussian.build(num_layers, **kwargs)
    model.compile(jit_compile=jit)
    return model, log_p


@pytest.mark.parametrize("num_layers", [1, 3])
def test_with_the_exact_posterior_the_log_likelihood_is_exact(num_layers):
    model, log_p = _model(num_layers, jit=True)
    x = linear_gaussian.data(batch=6)
    measured = log_likelihood.evaluate_images(model, x, num_samples=50)
    for values in (*map(measured.at, measured.counts), measured.elbos, measured.corrected):
        np.testing.assert_allclose(values, log_p(x), atol=1.5e-4)
    np.testing.assert_allclose(measured.effective_sample_sizes, 50.0, rtol=1e-3)
    np.testing.assert_allclose(measured.largest_weights, 1 / 50, rtol=1e-3)


# 7 divides 14 but neither 1, 10 nor 40; 6 images fill a batch of 4 and half another.
@pytest.mark.parametrize("num_samples", [1, 10, 14, 40])
def test_streaming_equals_one_piece_on_the_same_samples(num_samples):
    model, _ = _model(2, jit=num_samples == 40, widen=1.8, num_samples=3)
    x = linear_gaussian.data(batch=6)
    measured = log_likelihood.evaluate_images(model, x, num_samples, seed=4)
    key = noise.key(4, "evaluation")
    draw = tf.function(lambda x, i, block: model.log_weights(x, 7, noise.fold_in(key, i, block)))
    for i in range(len(x)):
        blocks = [draw(x[i : i + 1], tf.constant(i), tf.constant(block)) for block in range(6)]
        log_weights = tf.concat(blocks, axis=0)
        at_k, at_n = log_weights[:3], log_weights[:num_samples]
        assert measured.log_likelihoods[i] == pytest.approx(float(bounds.iwae_bound(at_n)[0]), abs=1e-4)
        assert measured.elbos[i] == pytest.approx(float(bounds.elbo(log_weights[: max(3, num_samples)])[0]), abs=1e-4)
        assert measured.iwae_bounds[i] == pytest.approx(float(bounds.iwae_bound(at_k)[0]), abs=1e-4)
        for count in measured.counts:
            assert measured.at(count)[i] == pytest.approx(float(bounds.iwae_bound(log_weights[:count])[0]), abs=1e-4)
        weights = bounds.normalized_weights(log_weights[: max(3, num_samples)])[:, 0].numpy()
        assert measured.effective_sample_sizes[i] == pytest.approx(1.0 / np.sum(weights**2), rel=1e-3)
        assert measured.largest_weights[i] == pytest.approx(weights.max(), rel=1e-3)
        halves = at_n[: num_samples // 2], at_n[num_samples // 2 :]
        if num_samples > 1:
            of_halves = np.mean([float(bounds.iwae_bound(half)[0]) for half in halves])
            assert measured.corrected[i] == pytest.approx(2 * measured.log_likelihoods[i] - of_halves, abs=1e-3)


def test_the_value_of_an_image_does_not_depend_on_its_batch():
    model, _ = _model(1, widen=1.5)
    x = tf.constant(linear_gaussian.data(batch=6))
    key = noise.key(0, "test")
    together = importance.importance_bounds(model, x, tf.range(6), [[0, 20]], key)
    alone = importance.importance_bounds(model, x[4:5], tf.constant([4]), [[0, 20]], key)
    np.testing.assert_allclose(together.bounds[0, 4], alone.bounds[0, 0], atol=1e-5)


@pytest.mark.parametrize("chunk_blocks", [1, 3, 5])
def test_the_values_do_not_depend_on_the_size_of_chunks(chunk_blocks):
    model, _ = _model(2, widen=1.8)
    x = tf.constant(linear_gaussian.data(batch=3))
    arguments = model, x, tf.range(3), [[0, 3], [5, 30]], noise.key(0, "test")
    bounds_two = importance.importance_bounds(*arguments, chunk_blocks=2)
    for values, expected in zip(
        importance.importance_bounds(*arguments, chunk_blocks=chunk_blocks), bounds_two, strict=True
    ):
        np.testing.assert_allclose(values, expected, atol=1e-4)


def test_images_have_independent_noise():
    model, _log_p = _model(1, widen=1.5)
    x = np.repeat(linear_gaussian.data(batch=1), 40, axis=0)
    assert len(np.unique(log_likelihood.evaluate_images(model, x, num_samples=2).log_likelihoods)) == 40


def test_an_interrupted_evaluation_continues(monkeypatch):
    """The values are the same, and finished images are not measured again."""
    model, _ = _model(1, widen=1.3)
    x = linear_gaussian.data(batch=10)
    expected = log_likelihood.evaluate_images(model, x, 5)
    reports = []
    with monkeypatch.context() as patch:
        patch.setattr(signals, "received", lambda: signal.SIGTERM if len(reports) == 2 else None)
        with pytest.raises(signals.Interrupted):
            log_likelihood.evaluate_images(model, x, 5, report=reports.append)
    assert [len(bounds) for bounds in reports] == [4, 8]
    # 7 images are one whole batch and a part of the next, which is measured again.
    begun = reports[1].first(7)
    begun = begun.with_arrays({name: array + 100.0 for name, array in begun.arrays().items()})
    resumed = log_likelihood.evaluate_images(model, x, 5, begun=begun)
    for name, values in resumed.arrays().items():
        before = expected.arrays()[name]
        np.testing.assert_allclose(values[..., :4], before[..., :4] + 100.0)
        np.testing.assert_array_equal(values[..., 4:], before[..., 4:])


def test_estimates_are_unbiased_for_the_mean_weight():
    """E[exp(L_k)] = p(x) for any proposal."""
    model, log_p = _model(1, widen=1.3)
    x = np.repeat(linear_gaussian.data(batch=1), 2000, axis=0)
    measured = log_likelihood.evaluate_images(model, x, num_samples=4).log_likelihoods
    assert_mean(np.exp(measured - log_p(x[:1])), 1.0)


def test_the_counts_of_the_curve():
    assert Estimates.zeros(5000, 50).counts == (1, 5, 10, 50, 100, 500, 1000, 5000)
    assert Estimates.zeros(20, 7).counts == (1, 5, 7, 10, 20)
    assert Estimates.zeros(1, 3).counts == (1, 3)


@pytest.mark.slow
def test_both_halves_correct_most_of_the_bias():
    """L_n is too low by about Var[w] / (2 n E[w]^2), and twice as much for the halves."""
    model, log_p = _model(1, widen=1.3)
    x = np.repeat(linear_gaussian.data(batch=1), 4000, axis=0)
    measured = log_likelihood.evaluate_images(model, x, num_samples=8)
    plain, corrected = (values - log_p(x[:1]) for values in (measured.log_likelihoods, measured.corrected))
    stderr = corrected.std(ddof=1) / np.sqrt(len(x))
    assert plain.mean() < -5.0 * stderr
    assert abs(corrected.mean()) < 0.4 * abs(plain.mean()) + 3.0 * stderr


@pytest.mark.parametrize("jit", [False, True])
def test_k_hat_is_that_of_all_log_weights_and_changes_nothing_else(jit):
    """k-hat is measured for the first three images; the fourth is in the same compiled call."""
    model, _ = _model(1, jit=jit, widen=1.5)
    x = linear_gaussian.data(batch=6)
    measured = log_likelihood.evaluate_images(model, x, num_samples=60, num_k_hats=3)
    plain = log_likelihood.evaluate_images(model, x, num_samples=60)
    for name in set(plain.arrays()) - {"k_hats"}:
        np.testing.assert_allclose(measured.arrays()[name], plain.arrays()[name], rtol=1e-5)
    assert np.isnan(plain.k_hats).all()
    assert np.isnan(measured.k_hats).tolist() == [False, False, False, True, True, True]
    assert measured.finite.all()
    key = noise.key(0, "evaluation")
    for i in range(3):
        blocks = [model.log_weights(x[i : i + 1], 7, noise.fold_in(key, i, block)) for block in range(9)]
        log_weights = np.concatenate(blocks)[:60, 0]
        largest = -np.sort(-log_weights)[: pareto.num_tail(60)]
        assert measured.k_hats[i] == pytest.approx(pareto.k_hat(largest, 60), abs=1e-3)
