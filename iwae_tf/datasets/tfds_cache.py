"""Data sets prepared by TensorFlow Datasets (TFDS) -> uint8 arrays [num_images, height, width].

The arrays are kept in the cache folder, so later runs do not need TFDS, which takes seconds to import.
"""

import hashlib
import json
import os
import pathlib
import re
import urllib.error
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from iwae_tf.datasets import formats
from iwae_tf.errors import UserError, first_line
from iwae_tf.runtime import console, download, files

# The version of this module's conversion, part of the names of the cached files. Increase it when the same images
# would give different arrays.
_CONVERSION_VERSION = 1
_BATCH = 100
# The server to test if TFDS does not say where it downloads a data set from.
_TFDS_SERVER = "https://storage.googleapis.com"


def read(
    name: str,
    data_dir: str,
    splits: Mapping[str, str],
    convert: Callable | None = None,
    keep_colour: bool = False,
) -> dict[str, np.ndarray]:
    """Reads splits of a data set, and prepares it first if necessary.

    Args:
      name: TFDS's name, such as "mnist", "omniglot:3.0.0" or "emnist/letters".
      data_dir: TFDS's folder, or "" for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      splits: name -> split in TFDS's syntax, such as {"train": "train[:80%]"}.
      convert: a function of images, a uint8 tensor [n, height, width], that returns other images, or None. Its name
        identifies it in the cache.
      keep_colour: whether colour images stay [n, height, width, 3]; else they become luminance,
        0.299 R + 0.587 G + 0.114 B.

    Returns:
      Name -> images of the split, uint8 [n, height, width] or [n, height, width, 3].

    Raises:
      UserError: the data set or split does not exist, is unavailable or damaged, or its images differ in size.
    """
    data_dir = str(pathlib.Path(data_dir).expanduser()) if data_dir else ""
    if data_dir and not pathlib.Path(data_dir).is_dir():
        raise UserError(f"data_dir={data_dir} is not a folder; pass a folder of TensorFlow Datasets.")
    folder = _find(name, data_dir) or _prepare(name, data_dir)
    path = files.cache_folder() / "tfds" / f"{folder.parent.name}-{_digest(folder, splits, convert, keep_colour)}.npz"
    arrays = files.read_arrays(path)
    if arrays is None or set(arrays) != set(splits) or any(not _are_images(array) for array in arrays.values()):
        arrays = {split: _read_split(folder, text, convert, keep_colour) for split, text in splits.items()}
        _cache(path, arrays)
    return arrays


def _are_images(array):
    return array.dtype == np.uint8 and array.ndim in (3, 4)


def _find(name, data_dir):
    """The folder of the newest matching version that is prepared, or None; does not use TFDS."""
    match = re.fullmatch(r"(\w+(?:/[\w.\-]+)?)(?::(\d+\.\d+\.\d+))?", name)
    if not match:
        raise UserError(
            f"tfds:{name} is not the name of a data set; expected a name such as tfds:mnist or "
            "tfds:emnist/letters:3.1.0."
        )
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / match[1]
    folders = (path.parent for path in root.glob("*/dataset_info.json"))
    versions = [folder for folder in folders if re.fullmatch(r"\d+(\.\d+){2}", folder.name)]
    matching = [folder for folder in versions if folder.name == (match[2] or folder.name)]
    return max(matching, key=lambda folder: [int(part) for part in folder.name.split(".")], default=None)


def _digest(folder, splits, convert, keep_colour):
    """A digest of everything that determines the arrays; TFDS's records contain the sizes and check sums of files."""
    try:
        records = [(folder / name).read_text(encoding="utf-8") for name in ("dataset_info.json", "features.json")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} is damaged: cannot read its records ({error}); prepare it again.") from error
    conversion = convert.__name__ if convert else "colour" if keep_colour else None
    return hashlib.sha256(json.dumps([_CONVERSION_VERSION, records, splits, conversion]).encode()).hexdigest()[:20]


def _cache(path, arrays):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_arrays(path, arrays)
    except OSError as error:
        # This run has its arrays; the next one will have to read them again.
        console.warn(f"not cached for the next run: cannot write {path} ({error.strerror})")


def _tensorflow_datasets():
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_datasets":
            raise
        raise UserError(
            "TensorFlow Datasets is not installed, which reads this data set; pip install 'iwae-tf[tfds]', or "
            "tensorflow-datasets."
        ) from error
    return tensorflow_datasets


def _prepare(name, data_dir):
    """Downloads and prepares a data set, which TFDS does under a temporary name. Returns its folder."""
    tfds = _tensorflow_datasets()
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # The code of a data set can raise anything.
        raise UserError(
            f"TensorFlow Datasets has no data set {name!r} ({first_line(error)}); see its catalogue at "
            "https://www.tensorflow.org/datasets."
        ) from error
    folder = pathlib.Path(builder.data_path)
    if not (folder / "dataset_info.json").exists():
        help_text = (
            f"run `tfds build {name}` on a machine with a network, copy the folder here, and pass the folder above it "
            "as data_dir."
        )
        _check_network(builder, folder, help_text)
        console.note(f"TensorFlow Datasets is preparing {folder}")
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise UserError(
                f"TensorFlow Datasets cannot prepare {folder} ({first_line(error)}); {help_text}"
            ) from error
    return folder


def _check_network(builder, folder, help_text):
    """Fails fast if there is no network; TFDS would retry for minutes."""
    urls = [url for url in builder.url_infos or {} if url.startswith("http")] or [_TFDS_SERVER]
    try:
        download.open_url(urls[0]).close()
    except OSError as error:
        if urls == [_TFDS_SERVER] and isinstance(error, urllib.error.HTTPError):
            return  # The server answers, although it has no page at its root.
        raise UserError(f"{folder} does not exist, and {urls[0]} cannot be reached ({error}); {help_text}") from error


def _read_split(folder, split, convert, keep_colour):
    """All images of a split, in the order in which TFDS stored them."""
    import tensorflow as tf

    builder = _builder(folder)
    num_images = _num_images(builder, folder, split)
    feature = _image_feature(builder, folder)
    converted = []
    try:
        images = builder.as_dataset(split=split, shuffle_files=False).map(lambda example: example[feature])
        for batch in images.batch(_BATCH):
            pixels = batch.numpy()
            if convert or not keep_colour or pixels.shape[-1] == 1:
                pixels = formats.luminance(pixels)
            converted.append(convert(pixels).numpy() if convert else pixels)
    except tf.errors.OpError as error:
        raise UserError(
            f"Cannot read the split {split} of {folder} ({first_line(error)}): its images differ in size, or it is "
            "damaged and must be prepared again."
        ) from error
    num_read = sum(map(len, converted))
    if num_read != num_images:
        raise UserError(f"The split {split} of {folder} has {num_read:,} images; expected {num_images:,}.")
    return np.concatenate(converted)


def _builder(folder):
    tfds = _tensorflow_datasets()
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # Damaged records raise many kinds of exceptions.
        raise UserError(f"{folder} is damaged ({first_line(error)}); prepare it again.") from error


def _num_images(builder, folder, split):
    """The number of images in a split, at least 1."""
    try:
        num_images = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"{folder} has no split {split!r}; expected one of {known}, or a part such as train[:80%]."
        ) from error
    if num_images < 1:
        raise UserError(f"The split {split} of {folder} selects no images; choose another.")
    return num_images


def _image_feature(builder, folder):
    """The name of the feature that holds the images."""
    tfds = _tensorflow_datasets()
    features = builder.info.features
    names = [name for name in features if isinstance(features[name], tfds.features.Image)]
    if len(names) != 1:
        raise UserError(f"{folder} has {len(names)} features that are images ({', '.join(features)}); expected one.")
    feature = features[names[0]]
    if feature.np_dtype != np.uint8 or feature.shape[-1] not in (1, 3):
        raise UserError(
            f"The images of {folder} are {feature.np_dtype.__name__} {feature.shape}; expected uint8, grey or colour."
        )
    return names[0]


def shrink_ink_on_paper(images: Any) -> Any:
    """Black ink on white paper, [n, height, width] -> bright ink, [n, 28, 28]; each pixel is the mean over its area."""
    import tensorflow as tf

    ink = 255.0 - tf.cast(images, tf.float32)
    return tf.cast(tf.round(tf.image.resize(ink[..., None], [28, 28], method="area")[..., 0]), tf.uint8)
