"""Data sets that TensorFlow Datasets (TFDS) prepares -> uint8 arrays [num_images, height, width].

What was read once is kept as arrays in the cache folder, and TFDS, which takes seconds to import, is needed no more.
"""

import hashlib
import json
import os
import pathlib
import re
import urllib.error

import numpy as np

from iwae_tf.errors import UserError, first_line
from iwae_tf.runtime import download, files

# Part of the cached files' names; to be raised when the same images would be read to other arrays.
_READING = 1
_BATCH = 100
# What to ask for where TFDS does not say where it downloads from.
_TFDS_SERVER = "https://storage.googleapis.com"


def read(name, data_dir, splits, convert=None):
    """Reads splits of a data set, after preparing it if need be.

    Args:
      name: "mnist", "omniglot:3.0.0" or "emnist/letters".
      data_dir: TFDS's folder, or "" for its default, $TFDS_DATA_DIR or ~/tensorflow_datasets.
      splits: name -> TFDS's split syntax, such as {"train": "train[:80%]"}.
      convert: a function of uint8 tensors [n, height, width] to others, or None.

    Returns:
      Name -> images of each split. Colour becomes luminance, 0.299 R + 0.587 G + 0.114 B.

    Raises:
      UserError: there is no such data set or split, it cannot be had, it is damaged, or holds no images of one size.
    """
    data_dir = str(pathlib.Path(data_dir).expanduser()) if data_dir else ""
    if data_dir and not pathlib.Path(data_dir).is_dir():
        raise UserError(f"--data_dir={data_dir} is no folder; give one that TensorFlow Datasets prepared.")
    folder = _find(name, data_dir) or _prepare(name, data_dir)
    path = files.cache_folder() / "tfds" / f"{folder.parent.name}-{_digest(folder, splits, convert)}.npz"
    arrays = files.read_arrays(path)
    if arrays is None or set(arrays) != set(splits) or any(a.dtype != np.uint8 or a.ndim != 3 for a in arrays.values()):
        arrays = {split: _read_split(folder, text, convert) for split, text in splits.items()}
        _keep(path, arrays)
    return arrays


def _find(name, data_dir):
    """The folder of the newest prepared version that suits, or None; without TFDS."""
    match = re.fullmatch(r"(\w+(?:/[\w.\-]+)?)(?::(\d+\.\d+\.\d+))?", name)
    if not match:
        raise UserError(f"tfds:{name} names no data set; expected such as tfds:mnist, tfds:emnist/letters:3.1.0.")
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / match[1]
    folders = (path.parent for path in root.glob("*/dataset_info.json"))
    versions = [folder for folder in folders if re.fullmatch(r"\d+(\.\d+){2}", folder.name)]
    suits = [folder for folder in versions if folder.name == (match[2] or folder.name)]
    return max(suits, key=lambda folder: [int(part) for part in folder.name.split(".")], default=None)


def _digest(folder, splits, convert):
    """Names everything that decides what is read; TFDS's records of a data set hold its files' sizes and check sums."""
    try:
        records = [(folder / name).read_text() for name in ("dataset_info.json", "features.json")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} is damaged: cannot read its records ({error}); prepare it again.") from error
    conversion = convert.__name__ if convert else None
    return hashlib.sha256(json.dumps([_READING, records, splits, conversion]).encode()).hexdigest()[:20]


def _keep(path, arrays):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_arrays(path, arrays)
    except OSError as error:
        # The arrays are there all the same; the next run will take as long as this one.
        print(f"not kept for the next run: cannot write {path} ({error.strerror})")


def _prepare(name, data_dir):
    """Downloads and prepares; TFDS does it under a temporary name. Returns the folder."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # Of many kinds, also from the code of the data set.
        raise UserError(
            f"TensorFlow Datasets has no data set {name!r} ({first_line(error)}); see its catalogue at "
            "https://www.tensorflow.org/datasets."
        ) from error
    folder = pathlib.Path(builder.data_path)
    if not (folder / "dataset_info.json").exists():
        help_text = (
            f"prepare it where there is a network with `tfds build {name}`, bring its folder here, and name the folder "
            "above it: --data_dir=FOLDER."
        )
        _check_network(builder, folder, help_text)
        print(f"TensorFlow Datasets prepares {folder}", flush=True)
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise UserError(
                f"TensorFlow Datasets cannot prepare {folder} ({first_line(error)}); {help_text}"
            ) from error
    return folder


def _check_network(builder, folder, help_text):
    """Refuses at once where there is no network: TFDS would try again and again for minutes."""
    urls = [url for url in builder.url_infos or {} if url.startswith("http")] or [_TFDS_SERVER]
    try:
        download.open_url(urls[0]).close()
    except OSError as error:
        if urls == [_TFDS_SERVER] and isinstance(error, urllib.error.HTTPError):
            return  # It answers, though there is nothing at its root.
        raise UserError(f"There is no {folder}, and {urls[0]} cannot be reached ({error}); {help_text}") from error


def _read_split(folder, split, convert):
    """All images of a split, in the order in which TFDS stored them."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # Its records can be damaged in many ways.
        raise UserError(f"{folder} is damaged ({first_line(error)}); prepare it again.") from error
    try:
        num_images = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        there = ", ".join(builder.info.splits)
        raise UserError(f"{folder} has no split {split!r}; expected {there}, or parts such as train[:80%].") from error
    if num_images < 1:
        raise UserError(f"The split {split} of {folder} selects no images; give another.")
    feature = _image_feature(builder, folder)
    converted = []
    try:
        images = builder.as_dataset(split=split, shuffle_files=False).map(lambda example: example[feature])
        for batch in images.batch(_BATCH):
            batch = _luminance(batch)
            converted.append((convert(batch) if convert else batch).numpy())
    except tf.errors.OpError as error:
        raise UserError(
            f"Cannot read the split {split} of {folder} ({first_line(error)}): its images differ in size, or it is "
            "damaged and has to be prepared again."
        ) from error
    found = sum(map(len, converted))
    if found != num_images or not found:
        raise UserError(f"The split {split} of {folder} holds {found:,} images and should hold {num_images:,}.")
    return np.concatenate(converted)


def _image_feature(builder, folder):
    """The name of the data set's images."""
    import tensorflow_datasets as tfds

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


def _luminance(images):
    """[n, height, width, 1 or 3] -> [n, height, width]; equal colours keep their value (ITU-R BT.601)."""
    import tensorflow as tf

    if images.shape[-1] == 1:
        return images[..., 0]
    weighted = tf.tensordot(tf.cast(images, tf.float32), tf.constant([0.299, 0.587, 0.114]), 1)
    return tf.cast(tf.round(weighted), tf.uint8)


def shrink_ink_on_paper(images):
    """Black ink on white paper, any size -> bright ink, 28x28, each pixel the mean over its area."""
    import tensorflow as tf

    ink = 255.0 - tf.cast(images, tf.float32)
    return tf.cast(tf.round(tf.image.resize(ink[..., None], [28, 28], method="area")[..., 0]), tf.uint8)
