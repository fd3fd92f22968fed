"""File formats of images -> uint8 arrays [num_images, height, width], ink bright, 0 ... 255."""

import hashlib
import lzma
import math
import pathlib

import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.runtime import files


def read_idx(path, sha256):
    """Reads an xz-compressed IDX file of images.

    Args:
      path: the file; it ships with the package.
      sha256: hexadecimal digest that it must have.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); it ships with iwae_tf: install it again.") from error
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise UserError(f"{path} is damaged: its SHA-256 digest is not {sha256}; install iwae_tf again.")
    content = lzma.decompress(packed)
    num_images, height, width = np.frombuffer(content, ">u4", count=4)[1:]
    return np.frombuffer(content, np.uint8, offset=16).reshape(num_images, height, width)


def read_npz(path):
    """Reads one's own data.

    Args:
      path: a .npz file with arrays `train` and `test` and perhaps `validation`, each [n, height, width],
        [n, height, width, 1], or [n, size * size] for square images, row by row; bool, integers 0 ... 255, or floats
        in [0, 1].

    Returns:
      Training, validation (or None) and test images.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    expected = "expected a .npz file with arrays train and test (numpy.savez(FILE, train=..., test=...))"
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}; {expected}.")
    named = files.read_arrays(path, ("train", "validation", "test"))
    if named is None:
        raise UserError(f"Cannot read {path} as arrays of numbers; {expected}.")
    missing = [name for name in ("train", "test") if name not in named]
    if missing:
        raise UserError(f"{path} has no array {missing[0]!r}; {expected}.")
    # One scale for all: a split can be dark by chance.
    top = _top(list(named.values()), path, list(named))
    images = {name: _rows_of_images(grey_values(array, path, name, top), path, name) for name, array in named.items()}
    if len({split.shape[1:] for split in images.values()}) > 1:
        shapes = ", ".join(f"{name} {split.shape[1:]}" for name, split in images.items())
        raise UserError(f"The images in {path} differ in size ({shapes}); give all splits the same.")
    return images["train"], images.get("validation"), images["test"]


def _top(arrays, path, names):
    """The value of full ink: 1 for truth values and floats, 255 for integers, but 1 where they are all 0 and 1."""
    for array, name in zip(arrays, names, strict=True):
        if array.dtype.kind not in "buif":
            raise UserError(f"{name} in {path} has type {array.dtype}; expected bool, integers 0 ... 255, or floats.")
        if not array.size:
            raise UserError(f"{name} in {path} is empty, shape {array.shape}; give at least one image.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{name} in {path} has values that are not finite; expected floats in [0, 1].")
    return 1 if all(array.dtype.kind in "bf" or array.max() <= 1 for array in arrays) else 255


def grey_values(array, path, name, top=None):
    """Numbers of any kind -> uint8 0 ... 255."""
    top = top or _top([array], path, [name])
    full = 1 if array.dtype.kind in "bf" else top
    if array.min() < 0 or array.max() > full:
        raise UserError(
            f"{name} in {path} has values {array.min()} ... {array.max()}; expected {array.dtype} in 0 ... {full}."
        )
    return np.rint(array * (255.0 / full)).astype(np.uint8) if full == 1 else array.astype(np.uint8)


def _rows_of_images(array, path, name):
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    size = math.isqrt(array.shape[1]) if array.ndim == 2 else 0
    if array.ndim == 2 and size**2 == array.shape[1]:
        array = array.reshape(-1, size, size)
    if array.ndim != 3:
        raise UserError(
            f"{name} in {path} has shape {array.shape}; expected [n, height, width] in grey, or [n, size * size]."
        )
    return array
