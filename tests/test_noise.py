import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import noise


@pytest.mark.parametrize("shape", [[40, 30], [7], [3, 1, 5]])
@pytest.mark.parametrize("draw", [noise.normal, noise.uniform])
def test_the_same_key_gives_the_same_numbers_eagerly_in_graphs_and_under_xla(draw, shape):
    def numbers(step):
        return draw(shape, noise.key(7, "test", step))

    # The bits agree, but the inverse of the distribution function is rounded differently, mostly in the tails.
    tolerance = 5e-4 if draw is noise.normal else 0.0
    eager = numbers(tf.constant(3)).numpy()
    np.testing.assert_array_equal(eager.shape, shape)
    for jit_compile in (False, True):
        compiled = tf.function(numbers, jit_compile=jit_compile)(tf.constant(3))
        np.testing.assert_allclose(eager, compiled, rtol=0.0, atol=tolerance)


def test_the_shape_may_contain_tensors():
    size = tf.function(lambda x: noise.normal([3, tf.shape(x)[0], 2], noise.key(0, "test")))
    assert size(tf.zeros([5])).shape == (3, 5, 2)


def test_normal_numbers_have_the_normal_distribution():
    draws = np.sort(noise.normal([200_000], noise.key(0, "test")).numpy())
    empirical = (np.arange(len(draws)) + 0.5) / len(draws)
    exact = 0.5 * (1.0 + tf.math.erf(draws.astype(np.float64) / np.sqrt(2.0)).numpy())
    assert np.max(np.abs(empirical - exact)) < 1.95 / np.sqrt(len(draws))  # Kolmogorov-Smirnov test at level 1e-3.


def test_different_seeds_purposes_and_counters_give_independent_numbers():
    keys = [
        noise.key(0, "training"),
        noise.key(1, "training"),
        noise.key(0, "validation"),
        noise.key(0, "training", 0),
        noise.key(0, "training", 1),
        noise.key(0, "training", 0, 1),
        noise.key(0, "training", 1, 0),
    ]
    draws = np.stack([noise.normal([1000], key) for key in keys])
    correlations = np.corrcoef(draws) - np.eye(len(keys))
    assert np.abs(correlations).max() < 5.0 / np.sqrt(1000)


def test_moments_of_normal_and_uniform_numbers():
    normal = noise.normal([100_000], noise.key(0, "test")).numpy()
    uniform = noise.uniform([100_000], noise.key(0, "test")).numpy()
    stderr = 1.0 / np.sqrt(100_000)
    assert abs(normal.mean()) < 5.0 * stderr
    assert abs(np.mean(normal**2) - 1.0) < 5.0 * np.sqrt(2.0) * stderr
    assert abs(uniform.mean() - 0.5) < 5.0 * stderr
    assert uniform.min() >= 0.0
    assert uniform.max() < 1.0


def test_a_permutation_contains_every_index_and_depends_on_the_key():
    order = noise.permutation(500, noise.key(0, "test")).numpy()
    np.testing.assert_array_equal(np.sort(order), np.arange(500))
    assert np.any(order != noise.permutation(500, noise.key(1, "test")))


@pytest.mark.parametrize("jit", [False, True])
def test_the_largest_normals_are_finite(jit):
    """Words at both ends of the range occur once in a few million draws, which is often during training."""
    ends = np.array([2**31 - 1, 2**31 - 64, 2**31 - 129, 2**31, 2**31 + 64, 2**31 + 129], np.uint32)
    drawn = tf.function(noise._normal_from_words, jit_compile=jit)(tf.constant(ends))
    assert np.all(np.isfinite(drawn))
    np.testing.assert_allclose(np.abs(drawn), 5.3, atol=0.2)
    np.testing.assert_array_equal(np.sign(drawn), [1, 1, 1, -1, -1, -1])
