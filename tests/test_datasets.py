import hashlib
import inspect

import numpy as np
import pytest

from iwae_tf import datasets
from iwae_tf.datasets import binarization, catalogue, formats
from iwae_tf.errors import UserError
from iwae_tf.experiment import checks


@pytest.fixture(scope="module")
def mnist():
    return datasets.load("mnist")


def test_mnist_has_the_original_content(mnist):
    pixels = np.concatenate([mnist.train, mnist.validation]).tobytes()
    for content, num_images, md5 in (
        (pixels, 60000, "6bbc9ace898e44ae57da46a324031adb"),
        (mnist.test.tobytes(), 10000, "2646ac647ad5339dbf082846283269ea"),
    ):
        header = np.array([2051, num_images, 28, 28], ">u4").tobytes()
        assert hashlib.md5(header + content).hexdigest() == md5


def test_the_labels_of_mnists_test_images(mnist):
    header = np.array([2049, 10000], ">u4").tobytes()
    assert hashlib.md5(header + mnist.test_labels.tobytes()).hexdigest() == "27ae3e4e09519cfbb04c329615203637"
    assert mnist.first(5).test_labels.tolist() == [7, 2, 1, 0, 4]


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"y_test": np.array([3, 1, 2])}, [3, 1, 2]),
        ({"test_labels": np.array([[3], [1], [2]], np.uint8)}, [3, 1, 2]),
        ({"y_test": np.array([3, 1])}, None),
        ({"y_test": np.array([3.0, 1.0, 2.0])}, None),
        ({}, None),
    ],
)
def test_the_labels_of_ones_own_test_images(arrays, expected, tmp_path):
    labels = datasets.load(_save(tmp_path, train=_distinct(9), test=_distinct(3), **arrays)).test_labels
    assert (None if labels is None else labels.tolist()) == expected


def test_the_splits_of_mnist(mnist):
    assert mnist.event_shape == (28, 28)
    assert mnist.train.shape == (59600, 784)
    assert mnist.validation.shape == (400, 784)
    assert mnist.test.shape == (10000, 784)
    assert mnist.train.dtype == np.uint8
    assert mnist.train_mean.shape == (784,)
    assert mnist.train_mean.mean() == pytest.approx(0.1307, abs=2e-4)  # The known mean of MNIST.
    assert not mnist.is_binary


def test_first_returns_the_first_images_of_each_split(mnist):
    few = mnist.first(30)
    assert (len(few.train), len(few.validation), len(few.test)) == (30, 30, 30)
    np.testing.assert_array_equal(few.test, mnist.test[:30])


@pytest.mark.parametrize("name", ["mnits", "npz", "npz:", "tfds:", "mnist:3", "other:mnist"])
def test_an_unknown_data_set_is_refused(name):
    with pytest.raises(UserError, match=f"no data set '{name}'; choose one of mnist, .*, tfds:NAME, npz:FILE"):
        datasets.load(name)


def test_a_missing_file_of_mnist_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "_DATA_FOLDER", tmp_path)
    with pytest.raises(UserError, match="Cannot read .*train-images"):
        datasets.load("mnist")


def _save(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return f"npz:{folder / 'own.npz'}"


@pytest.fixture
def pictures():
    """40 different images of 3 by 4 pixels."""
    return np.random.default_rng(0).integers(0, 256, [40, 3, 4], np.uint8)


def test_a_tenth_of_a_small_training_set_is_held_out(pictures, tmp_path):
    images = datasets.load(_save(tmp_path, train=pictures[:30], test=pictures[30:]))
    np.testing.assert_array_equal(images.train, pictures[:27].reshape(-1, 12))
    np.testing.assert_array_equal(images.validation, pictures[27:30].reshape(-1, 12))
    assert images.event_shape == (3, 4)


def test_a_given_validation_split_is_used(pictures, tmp_path):
    images = datasets.load(_save(tmp_path, train=pictures[:30], validation=pictures[30:35], test=pictures[35:]))
    assert (len(images.train), len(images.validation), len(images.test)) == (30, 5, 5)


def test_duplicates_are_counted_and_kept(pictures, tmp_path):
    test = np.concatenate([pictures[30:], pictures[:2], pictures[:1]])
    images = datasets.load(_save(tmp_path, train=pictures[:30], test=test))
    assert images.num_duplicates == 3
    assert len(images.test) == 13


def test_the_description_differs_if_one_pixel_differs(pictures):
    rows = pictures.reshape(-1, 12)
    images = datasets.Dataset(rows[:20], rows[20:30], rows[30:], (3, 4))
    described = images.describe()
    assert described["num_images"] == {"train": 20, "validation": 10, "test": 10}
    assert (described["image_shape"], described["num_duplicates"]) == ([3, 4], 0)
    changed = rows.copy()
    changed[25, 3] ^= 1
    assert datasets.Dataset(rows[:20], changed[20:30], rows[30:], (3, 4)).describe()["sha256"] != described["sha256"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (np.full([30, 3, 4], 7, np.uint8), "All pixels of the train images of .* are 7"),
        (np.arange(12, dtype=np.uint8).reshape(1, 3, 4), "no train images"),
    ],
)
def test_constant_and_empty_splits_are_refused(train, message, pictures, tmp_path):
    with pytest.raises(UserError, match=message):
        datasets.load(_save(tmp_path, train=train, test=pictures))


@pytest.mark.parametrize(("num_train", "held_out"), [(2, 1), (9, 1), (10, 1), (29, 2), (5000, 400)])
def test_at_least_one_and_at_most_a_tenth_of_the_training_images_are_held_out(num_train, held_out, tmp_path):
    images = datasets.load(_save(tmp_path, train=_distinct(num_train), test=_distinct(3)))
    assert (len(images.train), len(images.validation)) == (num_train - held_out, held_out)


def _distinct(num_images):
    return np.random.default_rng(0).integers(0, 256, [num_images, 3, 4], np.uint8)


def test_an_unexpected_number_of_images_is_refused(pictures, monkeypatch):
    monkeypatch.setattr(formats, "read_idx", lambda *_: pictures)
    with pytest.raises(UserError, match=r"mnist has \(36, 4, 40\) .*; expected \(59600, 400, 10000\)"):
        datasets.load("mnist")


def test_the_arguments_and_binarizations_of_all_entries_exist():
    arguments = list(inspect.signature(datasets.load).parameters)
    assert set(arguments) == {"name", "support", *checks.DATA_SET_FLAGS}
    for entry in [*datasets.DATASETS.values(), *datasets.FAMILIES.values()]:
        assert entry.binarization in binarization.BINARIZATIONS
        assert set(entry.takes) <= set(checks.DATA_SET_FLAGS)
