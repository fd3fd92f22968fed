import lzma

import numpy as np
import pytest

from iwae_tf.datasets import formats
from iwae_tf.errors import UserError


def test_a_damaged_or_missing_idx_file_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.xz"
    with pytest.raises(UserError, match="Cannot read .*train-images"):
        formats.read_idx(path, "0" * 64)
    path.write_bytes(lzma.compress(b"something else"))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.xz is damaged"):
        formats.read_idx(path, "0" * 64)


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
        (_GREY / np.float64(230.0) * 1.0000001, np.rint(_GREY * 255.0 / 230.0)),
        (_GREY / np.float32(255.0) - np.float32(1e-7), _GREY),
        (np.stack([_GREY] * 3, axis=-1), _GREY),
        (np.stack([_GREY, 0 * _GREY, 0 * _GREY], axis=-1), np.rint(0.299 * _GREY)),
        (_GREY > 100, 255 * (_GREY > 100)),
        ((_GREY > 100).astype(np.uint8), 255 * (_GREY > 100)),
    ],
    ids=["uint8", "int64", "channel", "float", "above", "below", "grey as colour", "red", "bool", "zeros and ones"],
)
def test_images_of_every_accepted_type_are_read(given, expected, tmp_path):
    train, validation, test = formats.read_npz(_npz(tmp_path, train=given, test=given[:1]))
    assert train.dtype == np.uint8
    np.testing.assert_array_equal(train, expected)
    np.testing.assert_array_equal(test, expected[:1])
    assert validation is None


def test_other_arrays_of_the_file_are_ignored(tmp_path):
    labels = np.array([{"not": "a number"}, None])
    train, _, _ = formats.read_npz(_npz(tmp_path, train=_GREY, test=_GREY, labels=labels))
    np.testing.assert_array_equal(train, _GREY)


def test_files_of_keras_datasets_are_read(tmp_path):
    labels = np.arange(2)
    path = _npz(tmp_path, x_train=_GREY, y_train=labels, x_test=_GREY[:1], y_test=labels[:1], x_val=_GREY[1:])
    train, validation, test = formats.read_npz(path)
    for read, expected in ((train, _GREY), (validation, _GREY[1:]), (test, _GREY[:1])):
        np.testing.assert_array_equal(read, expected)


def test_flat_square_images_and_a_validation_split_are_read(tmp_path):
    flat = np.arange(3 * 16, dtype=np.uint8).reshape(3, 16)
    train, validation, _ = formats.read_npz(_npz(tmp_path, train=flat, validation=flat[1:], test=flat))
    np.testing.assert_array_equal(train, flat.reshape(3, 4, 4))
    np.testing.assert_array_equal(validation, flat[1:].reshape(2, 4, 4))


def test_a_dark_split_is_not_mistaken_for_a_binary_one(tmp_path):
    """All splits share one scale."""
    _, _, test = formats.read_npz(_npz(tmp_path, train=_GREY, test=np.ones([1, 3, 4], np.uint8)))
    assert test.max() == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": _GREY}, "has no array 'test'; expected a .npz file"),
        ({"images": _GREY}, "has no array 'train'; expected"),
        ({"train": _GREY, "test": _GREY.astype(str)}, "test in .* has type <U3; expected bool, integers"),
        ({"train": _GREY, "test": _GREY.astype(complex)}, "has type complex128"),
        ({"train": _GREY, "test": _GREY[:0]}, r"test in .* is empty, with shape \(0, 3, 4\)"),
        ({"train": _GREY / 255.0, "test": _GREY * np.nan}, "values that are not finite"),
        (
            {"train": _GREY / 1.0, "test": _GREY / 255.0},
            r"train in .* has values from 0.0 to 230.0; expected float64 from 0 to 1",
        ),
        ({"train": _GREY - 5.0, "test": _GREY / 255.0}, "has values from -5"),
        ({"train": _GREY.astype(int) + 300, "test": _GREY}, "values from 300 to 530; expected int64 from 0 to 255"),
        (
            {"train": np.stack([_GREY] * 4, -1), "test": _GREY},
            r"has shape \(2, 3, 4, 4\); expected \[n, height, width\], \[n, height, width, 1 or 3\] or",
        ),
        ({"train": _GREY / 255.0 + 0.2, "test": _GREY / 255.0}, r"has values from 0.2 to 1.1"),
        ({"train": np.ones([2, 7], bool), "test": _GREY}, r"has shape \(2, 7\)"),
        ({"train": _GREY, "test": _GREY[:, :2]}, r"differ in size \(train \(3, 4\), test \(2, 4\)\)"),
        ({"train": np.array([{}]), "test": _GREY}, "Cannot read .* as arrays"),
    ],
)
def test_arrays_that_are_not_images_are_refused(arrays, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        formats.read_npz(_npz(tmp_path, **arrays))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_file_that_is_not_an_npz_are_refused(tmp_path):
    with pytest.raises(UserError, match="There is no file .*missing.npz"):
        formats.read_npz(str(tmp_path / "missing.npz"))
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match="Cannot read .*text.npz as arrays"):
        formats.read_npz(str(tmp_path / "text.npz"))
