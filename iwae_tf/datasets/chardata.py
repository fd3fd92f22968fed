"""The paper's 28x28 OMNIGLOT: its authors' chardata.mat -> uint8 arrays [num_images, 28, 28], bright ink."""

import hashlib
import io
import os
import pathlib

import numpy as np

from iwae_tf.datasets import formats
from iwae_tf.errors import UserError, first_line
from iwae_tf.runtime import console, download, files

CHARDATA_URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
# Git's hash of the file in the paper's repository, which no other content has.
CHARDATA_BLOB = "016a3536ffe5e1d38e42563a18d7a78bfaf643ec"


def read_chardata(data_dir: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads Burda's 28x28 OMNIGLOT.

    Args:
      data_dir: the folder that contains chardata.mat, or "" for the cache folder, to which it is downloaded.

    Returns:
      24,345 training images and 8,070 test images, uint8 [num_images, 28, 28].

    Raises:
      UserError: the file is missing and cannot be downloaded, or it is a different file.
    """
    import scipy.io

    folder = pathlib.Path(data_dir).expanduser() if data_dir else files.cache_folder()
    path = folder / "chardata.mat"
    if not data_dir and not path.exists():
        _download(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); {_where_to_get_it()}") from error
    _check_hash(content, path, "remove it and ")
    arrays = scipy.io.loadmat(io.BytesIO(content), variable_names=["data", "testdata"])
    train, test = (_column_major(formats.grey_values(arrays[name], path, name)) for name in ("data", "testdata"))
    return train, test


def _download(path):
    """Downloads the file; it gets its name only after it has passed the check."""
    import pooch

    # Without a known_hash, which cannot be a git hash, pooch would print the file's own.
    pooch.get_logger().setLevel("ERROR")
    console.note(f"downloading {CHARDATA_URL}")
    try:
        download.open_url(CHARDATA_URL).close()  # Fails fast if there is no network.
        pooch.retrieve(CHARDATA_URL, None, path.name, path.parent, downloader=_download_and_check)
    except OSError as error:
        raise UserError(f"Cannot download {path} ({first_line(error)}); {_where_to_get_it()}") from error


def _download_and_check(url, temporary, pooch_instance):
    import pooch

    pooch.HTTPDownloader()(url, temporary, pooch_instance)
    _check_hash(pathlib.Path(temporary).read_bytes(), url)
    os.chmod(temporary, 0o644)  # Other users may share the folder.


def _where_to_get_it():
    return f"get {CHARDATA_URL} and pass its folder as data_dir."


def _check_hash(content, origin, first=""):
    blob = git_blob_hash(content)
    if blob != CHARDATA_BLOB:
        raise UserError(
            f"{origin} is not the paper's chardata.mat: its git blob hash is {blob}, not {CHARDATA_BLOB}; "
            f"{first}{_where_to_get_it()}"
        )


def git_blob_hash(content: bytes) -> str:
    """Returns the hexadecimal hash that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _column_major(columns):
    """[784, n] with one image per column, itself stored column by column -> [n, 28, 28].

    The hash of the file guarantees that the images are then upright. The images themselves cannot confirm it: whether
    characters are taller than wide, or heavier at the top, depends on the alphabet.
    """
    return np.ascontiguousarray(columns.T.reshape(-1, 28, 28).transpose(0, 2, 1))
