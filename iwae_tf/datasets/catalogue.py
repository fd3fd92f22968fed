"""Data sets by name: images and splits.

A data set is an entry of `DATASETS`, or of `FAMILIES` with a name after the colon; nothing else in the package knows
its name. This module does not import TensorFlow: the flags look up here what each data set takes.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np

from iwae_tf.datasets import chardata, formats, tfds_cache
from iwae_tf.errors import UserError

_DATA_FOLDER = pathlib.Path(__file__).parent / "mnist"
_SPLITS = ("train", "validation", "test")
_TFDS_FLAGS = ("data_dir", "train_split", "validation_split", "test_split")


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
        cut = {split: getattr(self, split)[:max_images] for split in _SPLITS}
        return dataclasses.replace(self, **cut)

    @property
    def train_mean(self):
        """The mean of the training images' grey values in [0, 1], float64 [event]."""
        return self.train.mean(axis=0) / 255.0

    @property
    def is_binary(self):
        """Whether all pixels are 0 or 255, so that binarising changes nothing."""
        return not any(np.any((images != 0) & (images != 255)) for images in (self.test, self.validation, self.train))

    @functools.cached_property
    def num_duplicates(self):
        """How many test images are, pixel for pixel, among the training images; they are not removed."""
        train = set(map(bytes, self.train))
        return sum(bytes(image) in train for image in self.test)

    def describe(self):
        """What a run keeps of its data: sizes, duplicates and a check sum; plain JSON."""
        splits = {split: getattr(self, split) for split in _SPLITS}
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(images).data for images in splits.values()))
        return {
            "num_images": {split: len(images) for split, images in splits.items()},
            "image_shape": list(self.image_shape),
            "num_duplicates": self.num_duplicates,
            "sha256": digest.hexdigest(),
        }


@dataclasses.dataclass(frozen=True)
class Entry:
    """How to get one data set, or one of a family.

    Attributes:
      load: a function of the name within the family, the folder ("" for the usual one), and the splits (TFDS's syntax,
        each perhaps ""), returning training, validation (or None) and test images, uint8 [n, height, width].
      binarization: how it is binarised unless told otherwise, see `binarization.BINARIZATIONS`.
      takes: the flags that mean something to it.
      num_validation: how many of the last training images are held out where it has no validation split of its own;
        of small sets a tenth.
      num_images: the numbers of training, validation and test images that there have to be, or None.
    """

    load: Callable
    binarization: str = "stochastic"
    takes: tuple[str, ...] = ()
    num_validation: int = 400
    num_images: tuple[int, int, int] | None = None


def find(name):
    """Looks up a data set.

    Args:
      name: a name from `DATASETS`, or a family's, a colon and a name, such as "npz:digits.npz".

    Returns:
      Its `Entry` and the name within the family.

    Raises:
      UserError: the name is unknown.
    """
    family, _, member = name.partition(":")
    if name in DATASETS:
        return DATASETS[name], ""
    if family in FAMILIES and member:
        return FAMILIES[family], member
    known = ", ".join([*DATASETS, *(f"{family}:{member}" for family, member in _FAMILY_MEMBERS.items())])
    raise UserError(f"There is no data set {name!r}; choose one of {known}.")


def load(name, data_dir="", train_split="", validation_split="", test_split=""):
    """Loads a data set and checks it.

    Args:
      name: as for `find`.
      data_dir: the folder that holds it; "" for the usual one. TFDS prepares what is missing; chardata.mat is
        downloaded to the usual one only.
      train_split: of TFDS data sets, in TFDS's syntax; "" for the official one.
      validation_split: as above; "" holds out the last training images where there is no official one.
      test_split: as above.

    Returns:
      The `Images`, not binarised.

    Raises:
      UserError: the name is unknown, or the data cannot be had, are damaged, or are not as expected.
    """
    entry, member = find(name)
    splits = (train_split, validation_split, test_split)
    train, validation, test = entry.load(member, data_dir, splits)
    if validation is None:
        num_train = len(train) - min(entry.num_validation, len(train) // 10)
        train, validation = train[:num_train], train[num_train:]
    _check(name, (train, validation, test), None if any(splits) else entry.num_images)
    rows = (images.reshape(len(images), -1) for images in (train, validation, test))
    return Images(*rows, image_shape=train.shape[1:])


def _check(name, splits, num_images):
    """Refuses what cannot be the data set."""
    found = tuple(map(len, splits))
    if num_images and found != num_images:
        raise UserError(f"{name} has {found} training, validation and test images and should have {num_images}.")
    for split, images in zip(_SPLITS, splits, strict=True):
        if not len(images):
            raise UserError(f"{name} has no {split} images; give more.")
        if images.shape[1:] != splits[0].shape[1:]:
            raise UserError(f"{name} has images of sizes {splits[0].shape[1:]} and {images.shape[1:]}; give one size.")
        if images.min() == images.max():
            raise UserError(f"All pixels of the {split} images of {name} are {images.min()}: nothing to learn.")


def _load_mnist(member, data_dir, splits):
    del member, data_dir, splits  # It ships with the package.
    train, test = (
        formats.read_idx(_DATA_FOLDER / f"{part}-images-idx3-ubyte.xz", digest)
        for part, digest in _MNIST_SHA256.items()
    )
    return train, None, test


def _load_omniglot28(member, data_dir, splits):
    """In the order of the paper's authors' code, whose last 1,345 training images are for validation."""
    del member, splits
    train, test = chardata.read_chardata(data_dir)
    return train[np.random.RandomState(123).permutation(len(train))], None, test


def _load_npz(member, data_dir, splits):
    del data_dir, splits
    return formats.read_npz(member)


def _load_tfds(member, data_dir, splits, official=("train", "", "test"), convert=None):
    texts = [given or usual for given, usual in zip(splits, official, strict=True)]
    wanted = {split: text for split, text in zip(_SPLITS, texts, strict=True) if text}
    images = tfds_cache.read(member, data_dir, wanted, convert)
    if max(split.max() for split in images.values()) == 1:  # Zeros and ones.
        images = {split: split_images * np.uint8(255) for split, split_images in images.items()}
    return images["train"], images.get("validation"), images["test"]


def _load_binarized_mnist(member, data_dir, splits):
    del member
    return _load_tfds("binarized_mnist", data_dir, splits, official=_SPLITS)


def _load_omniglot(member, data_dir, splits):
    del member
    return _load_tfds("omniglot", data_dir, splits, convert=tfds_cache.shrink_ink_on_paper)


_MNIST_SHA256 = {
    "train": "8f41e9b4abc124dc3d209e86f7ea714a81f80edea40b565a4781dec7bd67c6e2",
    "t10k": "d815adbb3188b5bafed15d649960a5dbcb0f9138b9a4205b88b175001cb394c9",
}
DATASETS = {
    "mnist": Entry(_load_mnist, num_images=(59600, 400, 10000)),
    "binarized_mnist": Entry(_load_binarized_mnist, "fixed", _TFDS_FLAGS, num_images=(50000, 10000, 10000)),
    "omniglot28": Entry(_load_omniglot28, takes=("data_dir",), num_validation=1345, num_images=(23000, 1345, 8070)),
    "omniglot": Entry(_load_omniglot, takes=_TFDS_FLAGS, num_validation=1345),
}
FAMILIES = {"tfds": Entry(_load_tfds, takes=_TFDS_FLAGS), "npz": Entry(_load_npz)}
_FAMILY_MEMBERS = {"tfds": "NAME", "npz": "FILE"}
