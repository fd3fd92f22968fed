"""File formats of arrays -> images [num_images, height, width], uint8 0 ... 255 with bright ink, or tables."""

import hashlib
import lzma
import math
import pathlib
import zipfile

import numpy as np

from iwae_tf import supports
from iwae_tf.datasets import tables
from iwae_tf.errors import UserError
from iwae_tf.runtime import files


def read_idx(path: pathlib.Path, sha256: str) -> np.ndarray:
    """Reads an IDX file of images or labels, compressed with xz.

    Args:
      path: a file that ships with the package.
      sha256: the expected hexadecimal digest.

    Returns:
      uint8 [num_images, height, width], or [num_images] for labels.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}), which ships with iwae_tf; reinstall it.") from error
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise UserError(f"{path} is damaged: its SHA-256 digest is not {sha256}; reinstall iwae_tf.")
    content = lzma.decompress(packed)
    num_axes = content[3]
    shape = np.frombuffer(content, ">u4", count=1 + num_axes)[1:]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


# The array of a split in a .npz file: our own name, or those that `keras.datasets` uses.
_NPZ_NAMES = {
    "train": ("train", "x_train"),
    "validation": ("validation", "x_validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
# The labels of the test images, which are optional.
_NPZ_LABELS = ("test_labels", "y_test")
# The array of a file without splits.
_WHOLE = ("data", "x", "X")
# Floats may be this far outside of [0, 1], as after a rescaling in single precision.
_ROUNDING = 1e-5


def read_npz(
    path: str | pathlib.Path,
    support: supports.Support = supports.BINARY,
    fractions: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> tuple:
    """Reads a user's own images or tables.

    Args:
      path: a .npz file with arrays `train`, `test` and optionally `validation`, or `x_train` and so on; or, if there
        are fractions, `data`, `x` or `X`, which is split. Others are ignored. Each is [n, height, width],
        [n, height, width, 1 or 3] or [n, columns].
      support: the values of x. For zeros and ones and for grey levels the arrays are images: bool, integers 0 ... 255,
        or floats in [0, 1]; [n, size * size] are square images, row by row, and colours become luminance for zeros and
        ones. Other numbers are kept, and [n, columns] are tables.
      fractions: the validation and the test share of a file without such parts; 0 for none.
      seed: the seed of that split.

    Returns:
      Training, validation (or None) and test data: images, uint8 or float32 [n, height, width] or
      [n, height, width, 3]; or tables, float32 [n, columns], followed by the names of the columns.

    Raises:
      UserError: the file cannot be read or does not contain such arrays.
    """
    expected = "expected a .npz file with arrays train and test, or x_train and x_test"
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}; {expected}.")
    stored = files.read_arrays(path, [*(name for names in _NPZ_NAMES.values() for name in names), *_WHOLE])
    if stored is None:
        raise UserError(f"Cannot read {path} as arrays of numbers; {expected}.")
    named = {split: [name for name in names if name in stored] for split, names in _NPZ_NAMES.items()}
    arrays = {split: stored[names[0]] for split, names in named.items() if names}
    whole = [name for name in _WHOLE if name in stored]
    if not arrays and whole and fractions[1]:
        arrays = {"train": stored[whole[0]]}
    elif "train" in arrays and fractions[1] and "test" in arrays:
        raise UserError(f"{path} has a test part, so a test_fraction has no effect; leave it out.")
    missing = [name for name in ("train", "test") if name not in arrays]
    if missing and not ("train" in arrays and fractions[1]):
        raise UserError(f"{path} has no array {missing[0]!r}; {expected}, or give a test_fraction.")
    return _split(_converted(arrays, path, support), fractions, seed, path)


def read_npz_labels(path: str | pathlib.Path) -> np.ndarray | None:
    """Returns the labels of the test images in a .npz file, or None if it has no array of them.

    Args:
      path: a .npz file, as for `read_npz`; labels are integers [n] or [n, 1] called `test_labels` or `y_test`, beside a
        test part of n rows.
    """
    tests = _NPZ_NAMES["test"]
    stored = files.read_arrays(pathlib.Path(path).expanduser(), [*_NPZ_LABELS, *tests]) or {}
    sizes = [len(stored[name]) for name in tests if name in stored and stored[name].ndim]
    for name in _NPZ_LABELS:
        labels = stored.get(name)
        if labels is not None and labels.dtype.kind in "biu" and sizes and labels.shape in ((sizes[0],), (sizes[0], 1)):
            return labels.ravel().astype(np.int64)
    return None


def read_npy(
    path: str | pathlib.Path, support: supports.Support, fractions: tuple[float, float], seed: int = 0
) -> tuple:
    """Reads a .npy file with one array of images or rows, which is split; see `read_npz`."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}; expected a .npy file.")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"Cannot read {path} as an array of numbers; expected a .npy file.") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} holds several arrays; use npz:{path}.")
    return _split(_converted({"train": array}, path, support), fractions, seed, path)


def read_rows(path: str | pathlib.Path, support: supports.Support, is_table: bool) -> np.ndarray:
    """Reads new images or rows for a trained model from a .npy file, or from a .npz file with one or a known array.

    Args:
      path: the file; of a .npz file with several arrays, `data`, `x`, `X`, `test` or `x_test` is read.
      support: as for `read_npz`.
      is_table: whether the model was trained on a table.

    Returns:
      Images or a table as `read_npz` returns them, uint8 or float32 [n, ...].

    Raises:
      UserError: the file cannot be read or does not contain such an array.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}; expected a .csv, .npy or .npz file.")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"array": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"Cannot read {path} as arrays of numbers; expected a .csv, .npy or .npz file.") from error
    known = [name for name in (*_WHOLE, *_NPZ_NAMES["test"]) if name in arrays]
    if not known and len(arrays) > 1:
        raise UserError(f"{path} has the arrays {', '.join(arrays)}; call the one that is wanted {_WHOLE[0]!r}.")
    name = (known or list(arrays) or [""])[0]
    if not name:
        raise UserError(f"{path} has no array; expected one of images or rows.")
    if not is_table:
        return _converted({name: arrays[name]}, path, support)[name]
    if arrays[name].ndim != 2 or arrays[name].dtype.kind not in "buif":
        raise UserError(f"{path} has {arrays[name].dtype} {arrays[name].shape}; expected numbers [n, columns].")
    return arrays[name].astype(np.float32)


def _split(arrays, fractions, seed, path):
    """The three parts, and the columns of a table."""
    train, validation, test = (arrays.get(split) for split in _NPZ_NAMES)
    if test is None:
        drawn = (0.0 if validation is not None else fractions[0], fractions[1])
        train, other, test = tables.split(train, drawn, seed, path)
        validation = validation if validation is not None else other
    elif validation is not None and fractions[0]:
        raise UserError(f"{path} has a validation part, so a validation_fraction has no effect; leave it out.")
    elif fractions[0]:
        train, _, validation = tables.split(train, (0.0, fractions[0]), seed, path)
    columns = [tables.default_columns(train.shape[1])] if train.ndim == 2 else []
    return train, validation, test, *columns


def _converted(arrays, path, support):
    """Images, or tables if values are numbers of any size."""
    # All splits share one scale, since a split can be dark by chance.
    maximum = _maximum(arrays, path, support)
    if support.is_integer and math.isfinite(support.high) and not _are_tables(arrays, support):
        grey = {name: grey_values(array, path, name, maximum) for name, array in arrays.items()}
        converted = {name: _images(array, path, name, support.is_binary) for name, array in grey.items()}
    else:
        converted = {name: _numbers(array, path, name, maximum, support) for name, array in arrays.items()}
    if len({split.shape[1:] for split in converted.values()}) > 1:
        shapes = ", ".join(f"{name} {split.shape[1:]}" for name, split in converted.items())
        raise UserError(f"The images in {path} differ in size ({shapes}); all splits must have the same size.")
    return converted


def _are_tables(arrays, support):
    """Whether all are [n, columns] and cannot be square images."""
    if any(a.ndim != 2 or not a.size for a in arrays.values()):
        return False
    if any(math.isqrt(a.shape[1]) ** 2 != a.shape[1] for a in arrays.values()):
        return True
    floats = [a for a in arrays.values() if a.dtype.kind == "f"]
    # Grey values have no gaps, and levels that are floats are in [0, 1].
    return any(np.isnan(a).any() or (not support.is_binary and np.nanmax(a) > 1.0 + _ROUNDING) for a in floats)


def _numbers(array, path, name, maximum, support):
    """Numbers as they are: tables, or images of another kind than grey levels."""
    if array.ndim == 1:
        array = array[:, np.newaxis]
    is_grey = array.dtype.kind in "bu" and array.ndim != 2
    if support.is_unit_interval and array.dtype.kind in "iu":
        array = grey_values(array, path, name, maximum)
        return _images(array, path, name, grey=False)
    if array.ndim == 2:
        for column, label in enumerate(tables.default_columns(array.shape[1])):
            tables.check_resolution(array[:, column].astype(np.float64), path, f"{name}, {label}")
    values = array if is_grey and array.dtype == np.uint8 else array.astype(np.float32)
    return values if array.ndim == 2 else _images(values, path, name, grey=False)


def _maximum(arrays, path, support=supports.BINARY):
    """The value of full ink: 1 for bool and float; for integers 255, or 1 if none of the values is larger."""
    is_bounded = math.isfinite(support.high) and not _are_tables(arrays, support)
    for name, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise UserError(f"{name} in {path} has type {array.dtype}; expected bool, integers 0 ... 255, or floats.")
        if not array.size:
            raise UserError(f"{name} in {path} is empty, with shape {array.shape}; it must have at least one image.")
        if array.dtype.kind == "f" and is_bounded and not np.isfinite(array).all():
            raise UserError(f"{name} in {path} has values that are not finite; expected floats in [0, 1].")
    # Only for zeros and ones is a 1 full ink; as a grey level it is nearly black.
    is_small = support.is_binary and all(array.dtype.kind in "bf" or array.max() <= 1 for array in arrays.values())
    return 1 if is_small or all(array.dtype.kind in "bf" for array in arrays.values()) else 255


def grey_values(array: np.ndarray, path: pathlib.Path, name: str, maximum: int | None = None) -> np.ndarray:
    """Converts numbers of any type to uint8 0 ... 255.

    Args:
      array: bool, integers 0 ... 255, or floats in [0, 1], of any shape.
      path: the array's file, for error messages.
      name: the array's name, for error messages.
      maximum: the value of full ink in integers, 1 or 255; by default it follows from the array.

    Raises:
      UserError: the values are of another type or out of range.
    """
    maximum = maximum or _maximum({name: array}, path)
    maximum = 1 if array.dtype.kind in "bf" else maximum
    rounding = _ROUNDING if array.dtype.kind == "f" else 0
    if array.min() < -rounding or array.max() > maximum + rounding:
        raise UserError(
            f"{name} in {path} has values from {array.min()} to {array.max()}; expected {array.dtype} from 0 to "
            f"{maximum}."
        )
    return np.rint(np.clip(array, 0, 1) * 255.0).astype(np.uint8) if maximum == 1 else array.astype(np.uint8)


def luminance(images: np.ndarray) -> np.ndarray:
    """Colour to grey with the weights of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, which keep grey values.

    Args:
      images: uint8 [n, height, width, 1 or 3].

    Returns:
      uint8 [n, height, width].
    """
    if images.shape[-1] == 1:
        return images[..., 0]
    return np.rint(images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)


def _images(array, path, name, grey=True):
    """Any accepted shape -> [n, height, width], or [n, height, width, 3] if colours are kept."""
    if array.ndim == 4 and (array.shape[3] == 1 or (grey and array.shape[3] == 3)):
        array = luminance(array)
    if array.ndim == 4 and array.shape[3] == 3:
        return array
    size = math.isqrt(array.shape[1]) if array.ndim == 2 else 0
    if array.ndim == 2 and size**2 == array.shape[1]:
        array = array.reshape(-1, size, size)
    if array.ndim != 3:
        raise UserError(
            f"{name} in {path} has shape {array.shape}; expected [n, height, width], [n, height, width, 1 or 3] or "
            "[n, size * size]."
        )
    return array
