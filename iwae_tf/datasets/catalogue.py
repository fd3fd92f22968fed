"""Data sets by name: images and splits.

To add a data set, write a function that takes a `Request` and returns the images, and add an `Entry` with it to
`DATASETS` at the end of this file. If one function loads many data sets, add the entry to `FAMILIES`: they are then
called "family:member", such as "tfds:emnist". Loading needs no other change.

This module does not import TensorFlow: the command line looks up here which arguments a data set takes.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from iwae_tf.datasets import chardata, formats, tfds_cache
from iwae_tf.errors import UserError

_DATA_FOLDER = pathlib.Path(__file__).parent / "mnist"
_SPLITS = ("train", "validation", "test")
_TFDS_ARGUMENTS = ("data_dir", "train_split", "validation_split", "test_split")

# Training, validation (or None) and test images, uint8 [n, height, width].
Splits = tuple[np.ndarray, np.ndarray | None, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a data set, grey values 0 ... 255, one image per row.

    Attributes:
      train: uint8 [num_train, event].
      validation: uint8 [num_validation, event], held out from the training images for choosing between models.
      test: uint8 [num_test, event].
      image_shape: (height, width), with height * width = event.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    image_shape: tuple[int, int]

    def first(self, max_images: int) -> "Images":
        """Returns the first `max_images` images of each split."""
        first = {split: getattr(self, split)[:max_images] for split in _SPLITS}
        return dataclasses.replace(self, **first)

    @property
    def train_mean(self) -> np.ndarray:
        """The mean of the training images as grey values in [0, 1], float64 [event]."""
        return self.train.mean(axis=0) / 255.0

    @property
    def is_binary(self) -> bool:
        """Whether all pixels are 0 or 255, so that binarisation has no effect."""
        return not any(np.any((images != 0) & (images != 255)) for images in (self.test, self.validation, self.train))

    @functools.cached_property
    def num_duplicates(self) -> int:
        """The number of test images that also occur among the training images; they are not removed."""
        train = set(map(bytes, self.train))
        return sum(bytes(image) in train for image in self.test)

    def describe(self) -> dict[str, Any]:
        """Returns sizes, duplicates and a check sum that identifies the data of a run; plain JSON values."""
        splits = {split: getattr(self, split) for split in _SPLITS}
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(images).data for images in splits.values()))
        return {
            "num_images": {split: len(images) for split, images in splits.items()},
            "image_shape": list(self.image_shape),
            "num_duplicates": self.num_duplicates,
            "sha256": digest.hexdigest(),
        }


@dataclasses.dataclass(frozen=True)
class Request:
    """What `load` was asked for. A data set uses what applies to it.

    Attributes:
      member: the name within the family, "" outside families.
      data_dir: the folder that holds the data, "" for the default.
      splits: the training, validation and test splits in TFDS's syntax, "" for the default.
    """

    member: str
    data_dir: str
    splits: tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A data set, or a family of data sets.

    Attributes:
      load: a function of a `Request` that returns training, validation (or None) and test images, uint8
        [n, height, width].
      binarization: the default binarisation, see `binarization.BINARIZATIONS`.
      takes: the optional arguments of `datasets.load` that have an effect.
      num_validation: the number of training images, the last ones, that are held out if there is no validation split;
        at most a tenth, but at least one.
      num_images: the expected numbers of training, validation and test images, or None if any are accepted.
      member: what the name within a family stands for, such as "FILE"; "" outside families.
    """

    load: Callable[[Request], Splits]
    binarization: str = "stochastic"
    takes: tuple[str, ...] = ()
    num_validation: int = 400
    num_images: tuple[int, int, int] | None = None
    member: str = ""


def find(name: str) -> tuple[Entry, str]:
    """Looks up a data set.

    Args:
      name: a name from `DATASETS`, or a family's name, a colon and a name, such as "npz:digits.npz".

    Returns:
      Its `Entry`, and the name within the family, "" outside families.

    Raises:
      UserError: the name is unknown.
    """
    family, _, member = name.partition(":")
    if name in DATASETS:
        return DATASETS[name], ""
    if family in FAMILIES and member:
        return FAMILIES[family], member
    known = ", ".join([*DATASETS, *(f"{family}:{entry.member}" for family, entry in FAMILIES.items())])
    raise UserError(f"There is no data set {name!r}; choose one of {known}.")


def load(
    name: str, data_dir: str = "", train_split: str = "", validation_split: str = "", test_split: str = ""
) -> Images:
    """Loads a data set and checks it.

    Args:
      name: as for `find`.
      data_dir: the folder that holds the data, "" for the default. TFDS (TensorFlow Datasets) prepares missing data in
        either; chardata.mat is downloaded only to the default folder.
      train_split: the training split of a TFDS data set, in TFDS's syntax; "" for the official split.
      validation_split: the same for validation; if there is no official split, "" holds out the last training images.
      test_split: the same for the test images.

    Returns:
      The `Images`, not binarised.

    Raises:
      UserError: the name is unknown, or the data are unavailable, damaged or not as expected.
    """
    entry, member = find(name)
    given_splits = (train_split, validation_split, test_split)
    train, validation, test = entry.load(Request(member, data_dir, given_splits))
    if validation is None:
        num_train = len(train) - min(entry.num_validation, max(1, len(train) // 10))
        train, validation = train[:num_train], train[num_train:]
    _check(name, (train, validation, test), None if any(given_splits) else entry.num_images)
    height, width = train.shape[1:]
    return Images(_rows(train), _rows(validation), _rows(test), image_shape=(height, width))


def _rows(images):
    return images.reshape(len(images), -1)


def _check(name, splits, num_images):
    """Refuses images that cannot be the data set."""
    counts = tuple(map(len, splits))
    if num_images and counts != num_images:
        raise UserError(f"{name} has {counts} training, validation and test images; expected {num_images}.")
    for split, images in zip(_SPLITS, splits, strict=True):
        if not len(images):
            raise UserError(f"{name} has no {split} images; each split needs at least one.")
        if images.shape[1:] != splits[0].shape[1:]:
            raise UserError(
                f"{name} has images of sizes {splits[0].shape[1:]} and {images.shape[1:]}; expected a single size."
            )
        if images.min() == images.max():
            raise UserError(
                f"All pixels of the {split} images of {name} are {images.min()}; expected different values."
            )


def _load_mnist(request):
    """MNIST ships with the package, so no argument applies."""
    train, test = (
        formats.read_idx(_DATA_FOLDER / f"{part}-images-idx3-ubyte.xz", digest)
        for part, digest in _MNIST_SHA256.items()
    )
    return train, None, test


def _load_omniglot28(request):
    """In the order of the paper's code, which uses the last 1,345 training images for validation."""
    train, test = chardata.read_chardata(request.data_dir)
    return train[np.random.RandomState(123).permutation(len(train))], None, test


def _load_npz(request):
    return formats.read_npz(request.member)


def _load_tfds(request, official=("train", "", "test"), convert=None):
    chosen = [given or default for given, default in zip(request.splits, official, strict=True)]
    splits = {split: text for split, text in zip(_SPLITS, chosen, strict=True) if text}
    images = tfds_cache.read(request.member, request.data_dir, splits, convert)
    if max(split.max() for split in images.values()) == 1:  # Zeros and ones.
        images = {split: split_images * np.uint8(255) for split, split_images in images.items()}
    return images["train"], images.get("validation"), images["test"]


def _load_binarized_mnist(request):
    return _load_tfds(dataclasses.replace(request, member="binarized_mnist"), official=_SPLITS)


def _load_omniglot(request):
    return _load_tfds(dataclasses.replace(request, member="omniglot"), convert=tfds_cache.shrink_ink_on_paper)


_MNIST_SHA256 = {
    "train": "8f41e9b4abc124dc3d209e86f7ea714a81f80edea40b565a4781dec7bd67c6e2",
    "t10k": "d815adbb3188b5bafed15d649960a5dbcb0f9138b9a4205b88b175001cb394c9",
}
DATASETS = {
    "mnist": Entry(_load_mnist, num_images=(59600, 400, 10000)),
    "binarized_mnist": Entry(_load_binarized_mnist, "fixed", _TFDS_ARGUMENTS, num_images=(50000, 10000, 10000)),
    "omniglot28": Entry(_load_omniglot28, takes=("data_dir",), num_validation=1345, num_images=(23000, 1345, 8070)),
    "omniglot": Entry(_load_omniglot, takes=_TFDS_ARGUMENTS, num_validation=1345),
}
FAMILIES = {
    "tfds": Entry(_load_tfds, takes=_TFDS_ARGUMENTS, member="NAME"),
    "npz": Entry(_load_npz, member="FILE"),
}
