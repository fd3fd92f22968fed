"""Data sets by name: images, splits and binarisation.

A data set is an entry of `DATASETS`; nothing else in the package knows its name.
"""

import dataclasses
import hashlib
import lzma
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from iwae_tf import noise
from iwae_tf.errors import UserError

# Evaluation is on one fixed binarisation, the same for every run and seed, so that runs can be compared.
FIXED_BINARIZATION_SEED = 0
_BINARIZATION_BLOCK = 100
_DATA_FOLDER = pathlib.Path(__file__).parent / "data"


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a data set, grey values 0 ... 255, one image a row.

    Attributes:
      train: uint8 [num_train, event].
      validation: uint8 [num_validation, event]; held out from the training images, to choose models by.
      test: uint8 [num_test, event].
      image_shape: (height, width), with height * width = event.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    image_shape: tuple[int, int]

    def first(self, max_images):
        """Returns the data set cut to the first `max_images` images of each split."""
        cut = {split: getattr(self, split)[:max_images] for split in ("train", "validation", "test")}
        return dataclasses.replace(self, **cut)

    @property
    def train_mean(self):
        """The mean of the training images' grey values in [0, 1], float64 [event]."""
        return self.train.mean(axis=0) / 255.0


@dataclasses.dataclass(frozen=True)
class Entry:
    """How to get one data set.

    Attributes:
      load: returns the official training and test images, uint8 [n, height, width].
      image_shape: (height, width).
      num_validation: how many of the last training images are held out.
    """

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    image_shape: tuple[int, int]
    num_validation: int


def load(name):
    """Loads a data set.

    Args:
      name: a name from `DATASETS`.

    Returns:
      The `Images`.

    Raises:
      UserError: the name is unknown, or a file is missing or damaged.
    """
    if name not in DATASETS:
        raise UserError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    entry = DATASETS[name]
    train, test = entry.load()
    train, test = (images.reshape(len(images), -1) for images in (train, test))
    num_train = len(train) - entry.num_validation
    return Images(train[:num_train], train[num_train:], test, entry.image_shape)


def binarize(images, key):
    """Draws each pixel from a Bernoulli whose probability is its grey value.

    Args:
      images: uint8 [..., event].
      key: int32 [2], see `noise.key`.

    Returns:
      Float32 zeros and ones of the same shape.
    """
    return _exceed(images, noise.uniform(tf.shape(images), key))


def fixed_binarization(images, split):
    """Binarises a whole split once and for all: the same for every run.

    Args:
      images: uint8 [num_images, event], a split or its beginning.
      split: "validation" or "test".

    Returns:
      Float32 zeros and ones, numpy [num_images, event]; an image's value does not depend on how many follow it.
    """
    key = noise.key(FIXED_BINARIZATION_SEED, f"{split} binarization")
    blocks = []
    for start in range(0, len(images), _BINARIZATION_BLOCK):
        block = images[start : start + _BINARIZATION_BLOCK]
        thresholds = noise.uniform([_BINARIZATION_BLOCK, images.shape[1]], noise.fold_in(key, start))
        blocks.append(_exceed(block, thresholds[: len(block)]).numpy())
    return np.concatenate(blocks)


def _exceed(images, thresholds):
    return tf.cast(thresholds < tf.cast(images, tf.float32) / 255.0, tf.float32)


def _load_mnist():
    return tuple(_read_idx(f"{part}-images-idx3-ubyte.xz", digest) for part, digest in _MNIST_SHA256.items())


def _read_idx(file_name, sha256):
    """Reads images [n, height, width] from an xz-compressed IDX file that ships with the package."""
    path = _DATA_FOLDER / file_name
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); it ships with iwae_tf: install it again.") from error
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise UserError(f"{path} is damaged: its SHA-256 digest is not {sha256}; install iwae_tf again.")
    content = lzma.decompress(packed)
    num_images, height, width = np.frombuffer(content, ">u4", count=4)[1:]
    return np.frombuffer(content, np.uint8, offset=16).reshape(num_images, height, width)


_MNIST_SHA256 = {
    "train": "8f41e9b4abc124dc3d209e86f7ea714a81f80edea40b565a4781dec7bd67c6e2",
    "t10k": "d815adbb3188b5bafed15d649960a5dbcb0f9138b9a4205b88b175001cb394c9",
}

DATASETS = {"mnist": Entry(_load_mnist, image_shape=(28, 28), num_validation=400)}
