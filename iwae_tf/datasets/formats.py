"""File formats of images -> uint8 arrays [num_images, height, width], 0 ... 255, bright ink."""

import hashlib
import lzma
import math
import pathlib

import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.runtime import files


def read_idx(path: pathlib.Path, sha256: str) -> np.ndarray:
    """Reads an IDX file of images, compressed with xz.

    Args:
      path: a file that ships with the package.
      sha256: the expected hexadecimal digest.

    Returns:
      uint8 [num_images, height, width].

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
    num_images, height, width = np.frombuffer(content, ">u4", count=4)[1:]
    return np.frombuffer(content, np.uint8, offset=16).reshape(num_images, height, width)


# The array of a split in a .npz file: our own name, or those that `keras.datasets` uses.
_NPZ_NAMES = {
    "train": ("train", "x_train"),
    "validation": ("validation", "x_validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
# Floats may be this far outside of [0, 1], as after a rescaling in single precision.
_ROUNDING = 1e-5


def read_npz(path: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Reads a user's own images.

    Args:
      path: a .npz file with arrays `train`, `test` and optionally `validation`, or `x_train` and so on; others are
        ignored. Each is [n, height, width], [n, height, width, 1 or 3], or [n, size * size] for square images, row by
        row; bool, integers 0 ... 255, or floats in [0, 1]. Colour images become luminance.

    Returns:
      Training, validation (or None) and test images, uint8 [n, height, width].

    Raises:
      UserError: the file cannot be read or does not contain such arrays.
    """
    expected = "expected a .npz file with arrays train and test, or x_train and x_test"
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}; {expected}.")
    stored = files.read_arrays(path, [name for names in _NPZ_NAMES.values() for name in names])
    if stored is None:
        raise UserError(f"Cannot read {path} as arrays of numbers; {expected}.")
    named = {split: [name for name in names if name in stored] for split, names in _NPZ_NAMES.items()}
    arrays = {split: stored[names[0]] for split, names in named.items() if names}
    missing = [name for name in ("train", "test") if name not in arrays]
    if missing:
        raise UserError(f"{path} has no array {missing[0]!r}; {expected}.")
    # All splits share one scale, since a split can be dark by chance.
    maximum = _maximum(arrays, path)
    images = {name: _images(grey_values(array, path, name, maximum), path, name) for name, array in arrays.items()}
    if len({split.shape[1:] for split in images.values()}) > 1:
        shapes = ", ".join(f"{name} {split.shape[1:]}" for name, split in images.items())
        raise UserError(f"The images in {path} differ in size ({shapes}); all splits must have the same size.")
    return images["train"], images.get("validation"), images["test"]


def _maximum(arrays, path):
    """The value of full ink: 1 for bool and float; for integers 255, or 1 if none of the values is larger."""
    for name, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise UserError(f"{name} in {path} has type {array.dtype}; expected bool, integers 0 ... 255, or floats.")
        if not array.size:
            raise UserError(f"{name} in {path} is empty, with shape {array.shape}; it must have at least one image.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{name} in {path} has values that are not finite; expected floats in [0, 1].")
    return 1 if all(array.dtype.kind in "bf" or array.max() <= 1 for array in arrays.values()) else 255


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
            f"{name} in {path} has values {array.min()} ... {array.max()}; expected {array.dtype} in 0 ... {maximum}."
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


def _images(array, path, name):
    """Any accepted shape -> [n, height, width]."""
    if array.ndim == 4 and array.shape[3] in (1, 3):
        array = luminance(array)
    size = math.isqrt(array.shape[1]) if array.ndim == 2 else 0
    if array.ndim == 2 and size**2 == array.shape[1]:
        array = array.reshape(-1, size, size)
    if array.ndim != 3:
        raise UserError(
            f"{name} in {path} has shape {array.shape}; expected [n, height, width], [n, height, width, 1 or 3] or "
            "[n, size * size]."
        )
    return array
