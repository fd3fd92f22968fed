"""Data sets of TensorFlow Datasets, on folders in its format that the tests write."""

import json
import pathlib
import shutil
import sys
import urllib.error

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from iwae_tf import datasets
from iwae_tf.datasets import tfds_cache
from iwae_tf.errors import UserError
from iwae_tf.runtime import download, files

SHARED = pathlib.Path(__file__).parent.parent.parent / "shared" / "tfds"
NUM_IMAGES = {"train": 30, "test": 12}


def _store(folder, name, splits, version="1.0.0", feature=None):
    """Writes images in the format of TFDS."""
    (shape,) = {images.shape[1:] for images in splits.values()}
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        data_dir=str(folder),
        features=tfds.features.FeaturesDict({"image": feature or tfds.features.Image(shape=shape), "label": tf.int64}),
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices({"image": images, "label": np.arange(len(images))})
            for split, images in splits.items()
        },
        disable_shuffling=True,
    )


def _pictures(*shape, seed=0):
    return {
        split: np.random.default_rng([seed, n]).integers(0, 256, [n, *shape], np.uint8)
        for split, n in NUM_IMAGES.items()
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A TFDS folder with the data set digits, and its images [n, 6, 5, 1]."""
    folder = tmp_path_factory.mktemp("tfds")
    images = _pictures(6, 5, 1)
    _store(folder, "digits", images)
    return folder, images


def test_all_images_of_a_split_are_read_in_order(stored):
    folder, images = stored
    loaded = datasets.load("tfds:digits", data_dir=str(folder))
    np.testing.assert_array_equal(np.concatenate([loaded.train, loaded.validation]), images["train"].reshape(30, 30))
    np.testing.assert_array_equal(loaded.test, images["test"].reshape(12, 30))
    assert (len(loaded.validation), loaded.event_shape) == (3, (6, 5))


def test_splits_in_the_syntax_of_tfds(stored):
    folder, images = stored
    loaded = datasets.load("tfds:digits", str(folder), "train[:20]", "train[20:]", "test[:50%]")
    train = images["train"].reshape(30, 30)
    np.testing.assert_array_equal(loaded.train, train[:20])
    np.testing.assert_array_equal(loaded.validation, train[20:])
    np.testing.assert_array_equal(loaded.test, images["test"].reshape(12, 30)[:6])


def test_the_second_time_the_images_are_read_without_tfds(stored, monkeypatch):
    folder, _ = stored
    first = datasets.load("tfds:digits", str(folder))
    monkeypatch.setattr(tfds_cache, "_read_split", None)
    again = datasets.load("tfds:digits:1.0.0", str(folder))
    assert again.describe() == first.describe()


def test_other_splits_and_a_data_set_that_is_prepared_again_are_not_read_from_the_cache(stored, tmp_path):
    folder, _ = stored
    shutil.copytree(folder, tmp_path / "tfds")
    first = datasets.load("tfds:digits", str(tmp_path / "tfds"))
    assert len(datasets.load("tfds:digits", str(tmp_path / "tfds"), test_split="test[:5]").test) == 5
    shutil.rmtree(tmp_path / "tfds")
    _store(tmp_path / "tfds", "digits", _pictures(6, 5, 1, seed=1))
    assert np.any(datasets.load("tfds:digits", str(tmp_path / "tfds")).test != first.test)


def test_a_damaged_cache_is_written_again(stored, cache):
    folder, _ = stored
    first = datasets.load("tfds:digits", str(folder)).describe()
    (path,) = cache.rglob("*.npz")
    content = path.read_bytes()
    path.write_bytes(content[:200])
    assert datasets.load("tfds:digits", str(folder)).describe() == first
    assert files.read_arrays(path) is not None
    files.write_arrays(path, {"something": "else"})
    assert datasets.load("tfds:digits", str(folder)).describe() == first


def test_a_cache_that_cannot_be_written_is_not_an_error(stored, cache, capsys):
    folder, _ = stored
    cache.write_text("a file, not a folder")
    assert len(datasets.load("tfds:digits", str(folder)).test) == 12
    assert "not cached for the next run" in capsys.readouterr().err


def test_the_default_is_the_newest_version(tmp_path):
    for seed, version in enumerate(("1.9.0", "1.10.0")):
        _store(tmp_path, "digits", _pictures(6, 5, 1, seed=seed), version)
    newest = datasets.load("tfds:digits", str(tmp_path)).test
    np.testing.assert_array_equal(newest, _pictures(6, 5, 1, seed=1)["test"].reshape(12, 30))
    assert np.any(datasets.load("tfds:digits:1.9.0", str(tmp_path)).test != newest)


def test_colour_becomes_luminance_and_grey_pixels_keep_their_value(tmp_path):
    images = _pictures(4, 4, 3)
    images["test"][...] = images["test"][..., :1]
    _store(tmp_path, "paintings", images)
    loaded = datasets.load("tfds:paintings", str(tmp_path))
    np.testing.assert_array_equal(loaded.test, images["test"][..., 0].reshape(12, 16))
    expected = np.rint(images["train"].astype(float) @ [0.299, 0.587, 0.114]).reshape(30, 16)
    np.testing.assert_allclose(np.concatenate([loaded.train, loaded.validation]), expected, atol=1)


def test_binarized_mnist_is_scaled_to_255_and_fixed(tmp_path, monkeypatch):
    images = {split: pictures // 128 for split, pictures in _pictures(28, 28, 1).items()}
    images["validation"] = images["train"][:7]
    _store(tmp_path, "binarized_mnist", images)
    with pytest.raises(UserError, match=r"binarized_mnist has \(30, 7, 12\) .*; expected \(50000, 10000, 10000\)"):
        datasets.load("binarized_mnist", str(tmp_path))
    loaded = datasets.load("binarized_mnist", str(tmp_path), train_split="train")
    np.testing.assert_array_equal(loaded.train, 255 * images["train"].reshape(30, 784))
    assert loaded.is_binary
    assert len(loaded.validation) == 7
    assert datasets.find("binarized_mnist")[0].binarization == "fixed"


def test_omniglot_is_bright_ink_shrunk_by_area(tmp_path):
    images = {split: 255 - pictures // 255 * 255 for split, pictures in _pictures(105, 105, 3).items()}
    images = {split: np.broadcast_to(pictures[..., :1], pictures.shape).copy() for split, pictures in images.items()}
    images["test"][0] = 255
    images["test"][0, :15, :30] = 0  # 4 by 8 of the 28x28 pixels, all ink, at the top left.
    _store(tmp_path, "omniglot", images)
    loaded = datasets.load("omniglot", str(tmp_path))
    assert loaded.event_shape == (28, 28)
    expected = np.zeros([28, 28])
    expected[:4, :8] = 255
    np.testing.assert_array_equal(loaded.test[0].reshape(28, 28), expected)
    ink = 255.0 - images["test"][..., 0].astype(float)
    np.testing.assert_allclose(loaded.test.mean(axis=1), ink.mean(axis=(1, 2)), atol=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_split": "small1"}, "has no split 'small1'; expected one of train, test"),
        ({"test_split": "test[:200%"}, "has no split"),
        ({"train_split": "train[:0%]"}, "selects no images"),
        ({"train_split": "train[9:3]"}, "selects no images"),
        ({"data_dir": "nowhere"}, "data_dir=nowhere is not a folder"),
    ],
)
def test_unknown_or_empty_splits_and_missing_folders_are_refused(stored, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        datasets.load("tfds:digits", **{"data_dir": str(stored[0]), **arguments})
    assert "\n" not in str(error.value)


def test_invalid_and_unknown_names_are_refused(stored):
    with pytest.raises(UserError, match=r"tfds:\.\./etc is not the name of a data set"):
        datasets.load("tfds:../etc", str(stored[0]))
    with pytest.raises(UserError, match="has no data set 'no_such_images'"):
        datasets.load("tfds:no_such_images", str(stored[0]))


def test_missing_and_damaged_shards_are_refused(stored, tmp_path):
    folder = tmp_path / "tfds"
    shutil.copytree(stored[0], folder)
    (shard,) = folder.rglob("*-train.*")
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="train of .*digits"):
        datasets.load("tfds:digits", str(folder))
    shard.unlink()
    with pytest.raises(UserError, match="train of .*digits"):
        datasets.load("tfds:digits", str(folder))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_records_are_refused(stored, tmp_path, name):
    folder = tmp_path / "tfds"
    shutil.copytree(stored[0], folder)
    (path,) = folder.rglob(name)
    path.write_text(path.read_text()[:20])
    with pytest.raises(UserError, match="digits/1.0.0 is damaged"):
        datasets.load("tfds:digits", str(folder))
    if name == "features.json":
        path.write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match="is damaged: cannot read its records"):
            datasets.load("tfds:digits", str(folder))
        path.unlink()
        with pytest.raises(UserError, match="is damaged: cannot read its records .*features.json"):
            datasets.load("tfds:digits", str(folder))


def test_images_of_different_sizes_are_refused(tmp_path):
    feature = tfds.features.Image(shape=(None, None, 1))
    ragged = [np.full([2 + n % 2, 3, 1], 9 * n, np.uint8) for n in range(5)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="ragged",
        version="1.0.0",
        data_dir=str(tmp_path),
        features=tfds.features.FeaturesDict({"image": feature}),
        split_datasets={
            split: tf.data.Dataset.from_generator(
                lambda: ({"image": image} for image in ragged),
                output_signature={"image": tf.TensorSpec([None, None, 1], tf.uint8)},
            )
            for split in ("train", "test")
        },
    )
    with pytest.raises(UserError, match="its images differ in size, or it is damaged"):
        datasets.load("tfds:ragged", str(tmp_path))


def test_a_data_set_without_images_is_refused(tmp_path):
    _store(tmp_path, "sounds", {"train": np.zeros([3, 4])}, feature=tfds.features.Tensor(shape=(4,), dtype=tf.float64))
    with pytest.raises(UserError, match="has 0 features that are images"):
        datasets.load("tfds:sounds", str(tmp_path))


def test_without_a_network_the_error_is_immediate(tmp_path, monkeypatch):
    asked = []

    def fail(url, **_):
        asked.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(download, "open_url", fail)
    with pytest.raises(
        UserError, match="cannot be reached .no route to host.*`tfds build mnist`.*as data_dir"
    ) as error:
        datasets.load("tfds:mnist", str(tmp_path))
    assert str(tmp_path / "mnist") in str(error.value)
    assert len(asked) == 1
    assert not list(tmp_path.rglob("*.tfrecord*"))


def test_a_server_that_answers_with_an_error_is_reported_at_once(tmp_path, monkeypatch):
    def fail(url, **_):
        raise urllib.error.HTTPError(url, 503, "Service unavailable", {}, None)

    monkeypatch.setattr(download, "open_url", fail)
    with pytest.raises(UserError, match="cannot be reached .HTTP Error 503"):
        datasets.load("tfds:mnist", str(tmp_path))


def test_an_interrupted_preparation_is_not_loaded(tmp_path, monkeypatch):
    """TFDS writes to a folder with another name, which an interruption leaves behind."""
    monkeypatch.setattr(download, "open_url", lambda url, **_: (_ for _ in ()).throw(OSError("offline")))
    (tmp_path / "mnist" / "3.0.1.incompleteABC").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1.incompleteABC" / "dataset_info.json").write_text(json.dumps({"name": "mnist"}))
    with pytest.raises(UserError, match="cannot be reached"):
        datasets.load("tfds:mnist", str(tmp_path))


@pytest.mark.skipif(not SHARED.exists(), reason="needs a prepared MNIST next to the project")
@pytest.mark.slow
def test_mnist_of_tfds_has_the_same_images_as_the_packages_mnist():
    both = datasets.load("tfds:mnist", str(SHARED)), datasets.load("mnist")
    for splits in (["test"], ["train", "validation"]):
        # TFDS stores the images in a different order.
        rows = [np.concatenate([getattr(images, split) for split in splits]) for images in both]
        sorted_rows = [np.sort(images.view("S784").ravel()) for images in rows]
        np.testing.assert_array_equal(*sorted_rows)


def test_without_tensorflow_datasets_it_is_named(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"TensorFlow Datasets is not installed.*pip install 'iwae-tf\[tfds\]'"):
        tfds_cache.read("digits", str(stored[0]), {"train": "train"})
