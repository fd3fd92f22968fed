"""Data sets by name, with their splits: images, and tables.

To add a data set, write a function that takes a `Request` and returns the splits, and add an `Entry` with it to
`DATASETS` at the end of this file. If one function loads many data sets, add the entry to `FAMILIES`: they are then
called "family:member", such as "tfds:emnist". Loading needs no other change.

This module does not import TensorFlow: the command line looks up here which arguments a data set takes.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from iwae_tf import supports
from iwae_tf.datasets import chardata, formats, tables, tfds_cache
from iwae_tf.errors import UserError

_DATA_FOLDER = pathlib.Path(__file__).parent / "mnist"
_SPLITS = ("train", "validation", "test")
_TFDS_ARGUMENTS = ("data_dir", "train_split", "validation_split", "test_split")
_FRACTIONS = ("test_fraction", "validation_fraction", "split_seed")
# Rows that are converted at once.
_CHUNK = 10_000


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, one image or row of a table per row.

    Images are uint8, grey values 0 ... 255, or float32 if they are real numbers. Tables are float32; NaN is a missing
    value.

    Attributes:
      train: [num_train, event].
      validation: [num_validation, event], held out from the training data for choosing between models.
      test: [num_test, event].
      event_shape: (height, width), or (height, width, 3) for colours; (number of columns,) for a table.
      columns: the names of a table's columns; empty for images.
      test_labels: the class of each test row, integers [num_test], or None. The models do not see them.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    event_shape: tuple[int, ...]
    columns: tuple[str, ...] = ()
    test_labels: np.ndarray | None = None

    @property
    def is_table(self) -> bool:
        """Whether this is a table rather than images."""
        return len(self.event_shape) == 1

    @property
    def noun(self) -> str:
        """What the data are, for messages: rows of a table, or images."""
        return "rows" if self.is_table else "images"

    def first(self, max_images: int) -> "Dataset":
        """Returns the first `max_images` rows of each split."""
        first = {split: getattr(self, split)[:max_images] for split in _SPLITS}
        labels = None if self.test_labels is None else self.test_labels[:max_images]
        return dataclasses.replace(self, **first, test_labels=labels)

    @property
    def train_mean(self) -> np.ndarray:
        """The mean of the training images as grey values in [0, 1], float64 [event]."""
        return self.train.mean(axis=0) / 255.0

    def moments(
        self, support: supports.Support, transform: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the variance of each value of x over the training data that is not missing.

        Args:
          support: that of x, which decides whether grey values are divided by 255.
          transform: a function of x [n, event] whose moments are wanted instead, such as `np.log1p`.

        Returns:
          Two float64 arrays [event].
        """
        if self.train.dtype == np.uint8 and support.is_binary and not transform:
            return self.train_mean, self.train_mean * (1.0 - self.train_mean)
        scale = 255.0 if self.train.dtype == np.uint8 and support.is_unit_interval else 1.0

        def chunks():
            for start in range(0, len(self.train), _CHUNK):
                x = self.train[start : start + _CHUNK].astype(np.float64) / scale
                yield transform(x) if transform else x

        count = np.maximum(sum(np.sum(~np.isnan(x), axis=0) for x in chunks()), 1)
        mean = sum(np.nansum(x, axis=0) for x in chunks()) / count
        return mean, sum(np.nansum((x - mean) ** 2, axis=0) for x in chunks()) / count

    @property
    def is_binary(self) -> bool:
        """Whether all pixels are 0 or 255, or all values of a table 0, 1 or missing: binarisation has no effect."""
        if self.train.dtype != np.uint8:
            return not any(_is_outside(getattr(self, split), supports.BINARY).any() for split in _SPLITS)
        return not any(np.any((images != 0) & (images != 255)) for images in (self.test, self.validation, self.train))

    @property
    def num_missing(self) -> int:
        """The number of missing values in all splits."""
        if self.train.dtype == np.uint8:
            return 0
        return sum(int(np.isnan(getattr(self, split)).sum()) for split in _SPLITS)

    @functools.cached_property
    def num_duplicates(self) -> int:
        """The number of test images that also occur among the training images; they are not removed."""
        # Hashes, not the rows, which would need several times their memory.
        train = {hash(bytes(image)) for image in self.train}
        return sum(hash(bytes(image)) in train for image in self.test)

    def describe(self) -> dict[str, Any]:
        """Returns sizes, duplicates and a check sum that identifies the data of a run; plain JSON values."""
        splits = {split: getattr(self, split) for split in _SPLITS}
        digest = hashlib.sha256()
        for values in splits.values():
            digest.update(np.ascontiguousarray(values).data)
        shape = {"columns": list(self.columns)} if self.is_table else {"image_shape": list(self.event_shape)}
        return {
            "num_images": {split: len(values) for split, values in splits.items()},
            **shape,
            **({"num_missing": self.num_missing} if self.is_table else {}),
            "num_duplicates": self.num_duplicates,
            "sha256": digest.hexdigest(),
        }

    def check(self, support: supports.Support, name: str) -> None:
        """Raises a UserError if a likelihood with this support has no use for a value.

        Args:
          support: the values that are possible.
          name: the data set, for messages.
        """
        for split in _SPLITS:
            values = getattr(self, split)
            if not self.is_table and values.dtype != np.uint8 and not np.isfinite(values).all():
                raise UserError(f"The {split} images of {name} have values that are not finite.")
            if values.dtype == np.uint8 and support.high in (1.0, math.inf):
                continue  # Grey values are divided by 255 or binarised, or are possible as they are.
            wrong = np.argwhere(_is_outside(values, support))
            if len(wrong):
                row, place = wrong[0]
                where = f"Column {self.columns[place]!r}" if self.is_table else f"Pixel {place + 1}"
                others = "" if support == supports.REAL else "choose another likelihood, such as gaussian, or "
                raise UserError(
                    f"{where} of {name} has the value {values[row, place]:g} in a {split} row, but the likelihood is "
                    f"{support.distribution}, which has {support.text}; {others}change the data."
                )
        if self.is_table:
            tables.check_columns(self.train, self.columns, name, is_real=support == supports.REAL)


def _is_outside(values, support):
    """Which values are not possible, bool [n, event]; missing values are."""
    outside = (values < support.low) | (values > support.high) | np.isinf(values)
    if support.is_integer:
        outside |= (np.rint(values) != values) & ~np.isnan(values)
    return outside


@dataclasses.dataclass(frozen=True)
class Request:
    """What `load` was asked for. A data set uses what applies to it.

    Attributes:
      member: the name within the family, "" outside families.
      data_dir: the folder that holds the data, "" for the default.
      splits: the training, validation and test splits in TFDS's syntax, "" for the default.
      support: the values that x may have, which decides how files are read.
      fractions: the validation and the test share of a file without such parts; 0 for none.
      split_seed: the seed of that split.
      drop_columns: names of columns that are left out.
    """

    member: str
    data_dir: str = ""
    splits: tuple[str, str, str] = ("", "", "")
    support: supports.Support = supports.BINARY
    fractions: tuple[float, float] = (0.0, 0.0)
    split_seed: int = 0
    drop_columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A data set, or a family of data sets.

    Attributes:
      load: a function of a `Request` that returns training, validation (or None) and test images, uint8
        [n, height, width], or the parts of a table, float32 [n, columns], and the names of its columns.
      binarization: the default binarisation, see `binarization.BINARIZATIONS`.
      takes: the optional arguments of `datasets.load` that have an effect.
      num_validation: the number of training images, the last ones, that are held out if there is no validation split;
        at most a tenth, but at least one.
      num_images: the expected numbers of training, validation and test images, or None if any are accepted.
      member: what the name within a family stands for, such as "FILE"; "" outside families.
      test_labels: a function of a `Request` that returns the classes of the test rows, integers [n], or None.
    """

    load: Callable[[Request], tuple]
    binarization: str = "stochastic"
    takes: tuple[str, ...] = ()
    num_validation: int = 400
    num_images: tuple[int, int, int] | None = None
    member: str = ""
    test_labels: Callable[[Request], np.ndarray | None] = lambda _: None


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
    name: str,
    data_dir: str = "",
    train_split: str = "",
    validation_split: str = "",
    test_split: str = "",
    *,
    support: supports.Support = supports.BINARY,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.0,
    split_seed: int = 0,
    drop_columns: Sequence[str] = (),
) -> Dataset:
    """Loads a data set and checks it.

    Args:
      name: a data set, such as "mnist", or a family, a colon and a name, such as "npz:digits.npz".
      data_dir: the folder that holds the data, "" for the default. TFDS (TensorFlow Datasets) prepares missing data in
        either; chardata.mat is downloaded only to the default folder.
      train_split: the training split of a TFDS data set, in TFDS's syntax; "" for the official split.
      validation_split: the same for validation; if there is no official split, "" holds out the last training images.
      test_split: the same for the test images.
      support: the values that the likelihood accepts, which decides how files of one's own are read: for zeros and
        ones or grey levels as images 0 ... 255, for other numbers as they are.
      validation_fraction: the share of rows that are drawn for validation from a file of one's own; 0 holds out the
        last training rows.
      test_fraction: the share of rows that are drawn for the test; 0 where the file has a test part.
      split_seed: the seed of these draws.
      drop_columns: names of columns of a table that are left out.

    Returns:
      The `Dataset`, not binarised.

    Raises:
      UserError: the name is unknown, or the data are unavailable, damaged or not as expected.
    """
    entry, member = find(name)
    given_splits = (train_split, validation_split, test_split)
    fractions = (validation_fraction, test_fraction)
    request = Request(member, data_dir, given_splits, support, fractions, split_seed, tuple(drop_columns))
    train, validation, test, *columns = entry.load(request)
    if validation is None:
        num_train = len(train) - min(entry.num_validation, max(1, len(train) // 10))
        train, validation = train[:num_train], train[num_train:]
    _check(name, (train, validation, test), None if any(given_splits) else entry.num_images)
    loaded = Dataset(_rows(train), _rows(validation), _rows(test), train.shape[1:], *columns)
    loaded = dataclasses.replace(loaded, test_labels=entry.test_labels(request))
    loaded.check(support, name)
    return loaded


def _rows(images):
    return images.reshape(len(images), -1)


def _check(name, splits, num_images):
    """Refuses data that cannot be the data set."""
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
        if images.ndim > 2 and images.min() == images.max():
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


def _mnist_test_labels(request):
    return formats.read_idx(_DATA_FOLDER / "t10k-labels-idx1-ubyte.xz", _MNIST_LABELS_SHA256)


def _load_omniglot28(request):
    """In the order of the paper's code, which uses the last 1,345 training images for validation."""
    train, test = chardata.read_chardata(request.data_dir)
    return train[np.random.RandomState(123).permutation(len(train))], None, test


def _load_npz(request):
    return formats.read_npz(request.member, request.support, request.fractions, request.split_seed)


def _npz_test_labels(request):
    return formats.read_npz_labels(request.member)


def _load_npy(request):
    return formats.read_npy(request.member, request.support, request.fractions, request.split_seed)


def _load_csv(request):
    """A table; all its values are numbers or missing."""
    values, columns = tables.read_csv(request.member, request.drop_columns)
    return *tables.split(values, request.fractions, request.split_seed, request.member), columns


def _load_tfds(request, official=("train", "", "test"), convert=None):
    chosen = [given or default for given, default in zip(request.splits, official, strict=True)]
    splits = {split: text for split, text in zip(_SPLITS, chosen, strict=True) if text}
    images = tfds_cache.read(request.member, request.data_dir, splits, convert, not request.support.is_binary)
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
_MNIST_LABELS_SHA256 = "f2edae9ce0307abae4671a37b70e6e3858696b48b16c3cfdfef97388dc9925d5"
DATASETS = {
    "mnist": Entry(_load_mnist, num_images=(59600, 400, 10000), test_labels=_mnist_test_labels),
    "binarized_mnist": Entry(_load_binarized_mnist, "fixed", _TFDS_ARGUMENTS, num_images=(50000, 10000, 10000)),
    "omniglot28": Entry(_load_omniglot28, takes=("data_dir",), num_validation=1345, num_images=(23000, 1345, 8070)),
    "omniglot": Entry(_load_omniglot, takes=_TFDS_ARGUMENTS, num_validation=1345),
}
FAMILIES = {
    "tfds": Entry(_load_tfds, takes=_TFDS_ARGUMENTS, member="NAME"),
    "npz": Entry(_load_npz, takes=_FRACTIONS, member="FILE", test_labels=_npz_test_labels),
    "npy": Entry(_load_npy, takes=_FRACTIONS, member="FILE"),
    "csv": Entry(_load_csv, "fixed", takes=(*_FRACTIONS, "drop_columns"), member="FILE"),
}
