import builtins

import numpy as np
import pytest

from iwae_tf.errors import UserError
from iwae_tf.evaluation import pareto


def test_k_hat_of_the_largest_weights_equals_arvizs_k_hat_of_all_weights():
    import arviz

    rng = np.random.default_rng(0)
    for num_samples in (30, 500, 5000):
        log_weights = rng.standard_t(4, size=(3, num_samples))
        _, expected = arviz.psislw(log_weights)
        largest = np.sort(log_weights, axis=-1)[:, ::-1][:, : pareto.num_tail(num_samples)]
        np.testing.assert_array_equal(pareto.k_hat(largest, num_samples), expected)


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_k_hat_estimates_the_shape_of_pareto_weights(shape):
    """log w = shape * Exp(1) makes w Pareto with exactly that shape."""
    rng = np.random.default_rng(1)
    log_weights = shape * rng.exponential(size=(100, 5000))
    largest = -np.sort(-log_weights, axis=-1)[:, : pareto.num_tail(5000)]
    estimates = pareto.k_hat(largest, 5000)
    # ArviZ's prior counts like ten observations of 0.5 and moves the estimate from a tail of 213 towards it.
    expected = (213 * shape + 10 * 0.5) / 223
    assert abs(estimates.mean() - expected) < 4.5 * estimates.std(ddof=1) / 10 + 0.01


def test_k_hat_is_infinite_for_too_few_different_weights():
    assert pareto.k_hat(np.zeros([2, pareto.num_tail(100)]), 100).tolist() == [np.inf, np.inf]
    assert pareto.num_tail(1) == 1
    assert pareto.k_hat(np.zeros([2, 1]), 1).tolist() == [np.inf, np.inf]
    assert pareto.num_tail(5000) == 214


def test_without_arviz_the_error_says_what_to_install(monkeypatch):
    imported = builtins.__import__

    def without_arviz(name, *args, **kwargs):
        if name == "arviz":
            raise ImportError("No module named 'arviz'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_arviz)
    pareto._arviz.cache_clear()
    with pytest.raises(UserError, match=r"k-hat needs ArviZ .*; install it with `pip install 'arviz>=0.23.4,<1'`"):
        pareto.require_arviz()
