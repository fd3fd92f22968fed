import hashlib
import lzma

import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import datasets, noise
from iwae_tf.errors import UserError


@pytest.fixture(scope="module")
def mnist():
    return datasets.load("mnist")


def test_mnist_is_the_canonical_one(mnist):
    pixels = np.concatenate([mnist.train, mnist.validation]).tobytes()
    for content, num_images, md5 in (
        (pixels, 60000, "6bbc9ace898e44ae57da46a324031adb"),
        (mnist.test.tobytes(), 10000, "2646ac647ad5339dbf082846283269ea"),
    ):
        header = np.array([2051, num_images, 28, 28], ">u4").tobytes()
        assert hashlib.md5(header + content).hexdigest() == md5


def test_mnist_splits(mnist):
    assert mnist.image_shape == (28, 28)
    assert mnist.train.shape == (59600, 784)
    assert mnist.validation.shape == (400, 784)
    assert mnist.test.shape == (10000, 784)
    assert mnist.train.dtype == np.uint8
    assert mnist.train_mean.shape == (784,)
    assert mnist.train_mean.mean() == pytest.approx(0.1307, abs=2e-4)  # The well-known mean of MNIST.


def test_first_images(mnist):
    few = mnist.first(30)
    assert (len(few.train), len(few.validation), len(few.test)) == (30, 30, 30)
    np.testing.assert_array_equal(few.test, mnist.test[:30])


def test_an_unknown_data_set_is_refused():
    with pytest.raises(UserError, match="'mnits'; choose one of mnist"):
        datasets.load("mnits")


def test_a_damaged_or_missing_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_DATA_FOLDER", tmp_path)
    with pytest.raises(UserError, match="Cannot read .*train-images"):
        datasets.load("mnist")
    (tmp_path / "train-images-idx3-ubyte.xz").write_bytes(lzma.compress(b"something else"))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.xz is damaged"):
        datasets.load("mnist")


def test_binarization_draws_each_pixel_with_its_grey_value():
    grey = np.array([[0, 1, 64, 128, 200, 255]], np.uint8)
    draws = datasets.binarize(np.repeat(grey, 40_000, axis=0), noise.key(0, "test")).numpy()
    assert set(np.unique(draws)) == {0.0, 1.0}
    probabilities = grey[0] / 255.0
    stderr = np.sqrt(probabilities * (1.0 - probabilities) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - probabilities) <= 5.0 * stderr)  # Exact for 0 and 255.


def test_fixed_binarization_is_fixed_and_independent_of_what_follows(mnist):
    whole = datasets.fixed_binarization(mnist.test[:450], "test")
    np.testing.assert_array_equal(whole[:130], datasets.fixed_binarization(mnist.test[:130], "test"))
    assert np.any(whole != datasets.fixed_binarization(mnist.test[:450], "validation"))
    assert whole.dtype == np.float32
    # No two images share their random numbers.
    grey = np.full((450, 784), 128, np.uint8)
    assert len(np.unique(datasets.fixed_binarization(grey, "test"), axis=0)) == 450


def test_binarization_under_xla_is_the_eager_one(mnist):
    compiled = tf.function(datasets.binarize, jit_compile=True)
    key = noise.key(0, "test")
    np.testing.assert_array_equal(compiled(mnist.train[:20], key), datasets.binarize(mnist.train[:20], key))
