import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import datasets, noise
from iwae_tf.datasets import binarization


@pytest.fixture(scope="module")
def mnist():
    return datasets.load("mnist").first(450)


def test_binarize_draws_each_pixel_with_its_grey_value_as_probability():
    grey = np.array([[0, 1, 64, 128, 200, 255]], np.uint8)
    draws = binarization.binarize(np.repeat(grey, 40_000, axis=0), noise.key(0, "test")).numpy()
    assert set(np.unique(draws)) == {0.0, 1.0}
    probabilities = grey[0] / 255.0
    stderr = np.sqrt(probabilities * (1.0 - probabilities) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - probabilities) <= 5.0 * stderr)  # Exact for 0 and 255.


def test_fixed_binarization_does_not_depend_on_the_images_that_follow(mnist):
    whole = binarization.fixed_binarization(mnist.test, "test")
    np.testing.assert_array_equal(whole[:130], binarization.fixed_binarization(mnist.test[:130], "test"))
    assert np.any(whole != binarization.fixed_binarization(mnist.test, "validation"))
    assert whole.dtype == np.float32
    # No two images share their random numbers.
    grey = np.full((450, 784), 128, np.uint8)
    assert len(np.unique(binarization.fixed_binarization(grey, "test"), axis=0)) == 450


def test_binarize_gives_the_same_bits_under_xla(mnist):
    compiled = tf.function(binarization.binarize, jit_compile=True)
    key = noise.key(0, "test")
    np.testing.assert_array_equal(compiled(mnist.train[:20], key), binarization.binarize(mnist.train[:20], key))


def test_stochastic_binarization_leaves_the_images_unchanged(mnist):
    assert binarization.binarize_once(mnist, "stochastic").train is mnist.train


@pytest.mark.parametrize("name", ["fixed", "threshold"])
def test_images_that_are_binarised_once_do_not_change_when_drawn(mnist, name):
    once = binarization.binarize_once(mnist, name)
    assert once.is_binary
    assert once.train.dtype == np.uint8
    for seed in (0, 1):
        drawn = binarization.binarize(once.train, noise.key(seed, "test"))
        np.testing.assert_array_equal(255 * drawn.numpy().astype(np.uint8), once.train)
    evaluated = binarization.fixed_binarization(once.test, "test")
    np.testing.assert_array_equal(255 * evaluated.astype(np.uint8), once.test)


def test_fixed_binarization_of_the_test_images_is_that_of_the_evaluation(mnist):
    once = binarization.binarize_once(mnist, "fixed")
    expected = binarization.fixed_binarization(mnist.test, "test")
    np.testing.assert_array_equal(binarization.fixed_binarization(once.test, "test"), expected)


def test_the_threshold_is_one_half():
    grey = np.array([[0, 127, 128, 255]], np.uint8)
    images = datasets.Dataset(grey, grey, grey, (2, 2))
    np.testing.assert_array_equal(binarization.binarize_once(images, "threshold").test, [[0, 0, 255, 255]])
