import lzma

import numpy as np
import pytest
import scipy.io

from iwae_tf import datasets
from iwae_tf.datasets import chardata, formats
from iwae_tf.errors import UserError
from iwae_tf.runtime import download


def test_a_damaged_or_missing_idx_file_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.xz"
    with pytest.raises(UserError, match="Cannot read .*train-images"):
        formats.read_idx(path, "0" * 64)
    path.write_bytes(lzma.compress(b"something else"))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.xz is damaged"):
        formats.read_idx(path, "0" * 64)


def test_gits_name_of_a_blob():
    assert chardata.git_blob_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


@pytest.fixture(scope="module")
def characters():
    """Grey images [n, 28, 28] that are not their own mirror images, as many as the paper's data set has."""
    rng = np.random.default_rng(0)
    images = np.zeros([24345 + 8070, 28, 28], np.uint8)
    images[:, 3:6, 2:26] = rng.integers(0, 256, [len(images), 3, 24])  # A bar along the top.
    return images[:24345], images[24345:]


@pytest.fixture(scope="module")
def chardata_folder(characters, tmp_path_factory):
    """A folder with a file of the format of chardata.mat, and its git blob hash."""
    folder = tmp_path_factory.mktemp("chardata")
    # Column-major: all of the first column of an image, then the second.
    data, testdata = (np.stack([image.flatten(order="F") for image in images], axis=1) for images in characters)
    scipy.io.savemat(folder / "chardata.mat", {"data": data / 255.0, "testdata": testdata / 255.0}, do_compression=True)
    return folder, chardata.git_blob_hash((folder / "chardata.mat").read_bytes())


def test_chardata_is_upright_and_split_as_in_the_papers_code(chardata_folder, characters, monkeypatch):
    folder, blob = chardata_folder
    monkeypatch.setattr(chardata, "CHARDATA_BLOB", blob)
    train, test = chardata.read_chardata(str(folder))
    np.testing.assert_array_equal(train, characters[0])
    np.testing.assert_array_equal(test, characters[1])

    images = datasets.load("omniglot28", data_dir=str(folder))
    order = np.random.RandomState(123).permutation(24345)
    np.testing.assert_array_equal(images.train, characters[0][order[:23000]].reshape(-1, 784))
    np.testing.assert_array_equal(images.validation, characters[0][order[23000:]].reshape(-1, 784))
    np.testing.assert_array_equal(images.test, characters[1].reshape(-1, 784))
    assert images.image_shape == (28, 28)


def test_another_chardata_is_refused(chardata_folder):
    with pytest.raises(
        UserError, match="is not the paper's chardata.mat: its git blob hash is [0-9a-f]{40}, not 016a3536"
    ):
        chardata.read_chardata(str(chardata_folder[0]))


def test_chardata_that_is_not_there(tmp_path):
    with pytest.raises(
        UserError, match="Cannot read .*chardata.mat .*get https://github.com/yburda.*--data_dir=FOLDER"
    ):
        chardata.read_chardata(str(tmp_path))


def test_chardata_is_downloaded_once(chardata_folder, monkeypatch, tmp_path):
    folder, blob = chardata_folder
    monkeypatch.setattr(chardata, "CHARDATA_BLOB", blob)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    content, asked = (folder / "chardata.mat").read_bytes(), []
    monkeypatch.setattr(download, "download", lambda url: asked.append(url) or content)
    for _ in range(2):
        train, _ = chardata.read_chardata("")
    assert len(train) == 24345
    assert asked == [chardata.CHARDATA_URL]


def test_a_foreign_download_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(download, "download", lambda url: b"<html>Sign in to the network</html>")
    with pytest.raises(UserError, match="is not the paper's chardata.mat"):
        chardata.read_chardata("")
    assert not list(tmp_path.rglob("*.mat"))


def test_without_a_network_the_file_and_its_source_are_named(monkeypatch, tmp_path):
    def fail(url, **_):
        raise OSError("no route to host")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(download, "open_url", fail)
    with pytest.raises(UserError, match="chardata.mat .no route to host.; get https://.*--data_dir=FOLDER"):
        chardata.read_chardata("")
    assert not list(tmp_path.rglob("*.mat"))


def _npz(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return str(folder / "own.npz")


_GREY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (_GREY, _GREY),
        (_GREY.astype(np.int64), _GREY),
        (_GREY[..., None], _GREY),
        (_GREY / np.float32(255.0), _GREY),
        (_GREY > 100, 255 * (_GREY > 100)),
        ((_GREY > 100).astype(np.uint8), 255 * (_GREY > 100)),
    ],
    ids=["uint8", "int64", "channel", "float", "bool", "zeros and ones"],
)
def test_ones_own_images(given, expected, tmp_path):
    train, validation, test = formats.read_npz(_npz(tmp_path, train=given, test=given[:1]))
    assert train.dtype == np.uint8
    np.testing.assert_array_equal(train, expected)
    np.testing.assert_array_equal(test, expected[:1])
    assert validation is None


def test_other_arrays_of_the_file_are_left_alone(tmp_path):
    labels = np.array([{"not": "a number"}, None])
    train, _, _ = formats.read_npz(_npz(tmp_path, train=_GREY, test=_GREY, labels=labels))
    np.testing.assert_array_equal(train, _GREY)


def test_flat_square_images_and_a_split_for_validation(tmp_path):
    flat = np.arange(3 * 16, dtype=np.uint8).reshape(3, 16)
    train, validation, _ = formats.read_npz(_npz(tmp_path, train=flat, validation=flat[1:], test=flat))
    np.testing.assert_array_equal(train, flat.reshape(3, 4, 4))
    np.testing.assert_array_equal(validation, flat[1:].reshape(2, 4, 4))


def test_a_dark_split_is_not_taken_for_a_binary_one(tmp_path):
    """The scale is that of the file."""
    _, _, test = formats.read_npz(_npz(tmp_path, train=_GREY, test=np.ones([1, 3, 4], np.uint8)))
    assert test.max() == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": _GREY}, "has no array 'test'; expected a .npz file"),
        ({"images": _GREY}, "has no array 'train'; expected"),
        ({"train": _GREY, "test": _GREY.astype(str)}, "test in .* has type <U3; expected bool, integers"),
        ({"train": _GREY, "test": _GREY.astype(complex)}, "has type complex128"),
        ({"train": _GREY, "test": _GREY[:0]}, r"test in .* is empty, shape \(0, 3, 4\)"),
        ({"train": _GREY / 255.0, "test": _GREY * np.nan}, "values that are not finite"),
        (
            {"train": _GREY / 1.0, "test": _GREY / 255.0},
            r"train in .* has values 0.0 ... 230.0; expected float64 in 0 ... 1",
        ),
        ({"train": _GREY - 5.0, "test": _GREY / 255.0}, "has values -5"),
        ({"train": _GREY.astype(int) + 300, "test": _GREY}, "values 300 ... 530; expected int64 in 0 ... 255"),
        ({"train": np.stack([_GREY] * 3, -1), "test": _GREY}, r"has shape \(2, 3, 4, 3\); expected \[n, height, width"),
        ({"train": np.ones([2, 7], bool), "test": _GREY}, r"has shape \(2, 7\)"),
        ({"train": _GREY, "test": _GREY[:, :2]}, r"differ in size \(train \(3, 4\), test \(2, 4\)\)"),
        ({"train": np.array([{}]), "test": _GREY}, "Cannot read .* as arrays"),
    ],
)
def test_what_is_no_set_of_images_is_refused(arrays, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        formats.read_npz(_npz(tmp_path, **arrays))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no file .*missing.npz"):
        formats.read_npz(str(tmp_path / "missing.npz"))
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match="Cannot read .*text.npz as arrays"):
        formats.read_npz(str(tmp_path / "text.npz"))
