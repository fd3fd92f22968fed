"""The paper's 28x28 OMNIGLOT: chardata.mat of its authors -> uint8 arrays [num_images, 28, 28], ink bright."""

import hashlib
import io
import pathlib

import numpy as np

from iwae_tf.datasets import formats
from iwae_tf.errors import UserError
from iwae_tf.runtime import download, files

CHARDATA_URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
# What git calls this content: the paper's repository can hold no other under this name.
CHARDATA_BLOB = "016a3536ffe5e1d38e42563a18d7a78bfaf643ec"


def read_chardata(data_dir):
    """Reads Burda's 28x28 OMNIGLOT.

    Args:
      data_dir: the folder of chardata.mat, or "" for the cache folder, into which it is then downloaded.

    Returns:
      24,345 training and 8,070 test images.

    Raises:
      UserError: the file is missing and cannot be had, or it is another one.
    """
    import scipy.io

    folder = pathlib.Path(data_dir).expanduser() if data_dir else files.cache_folder()
    path = folder / "chardata.mat"
    if not data_dir and not path.exists():
        _download_chardata(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); {_where_to_get_chardata()}") from error
    _check_chardata(content, path)
    arrays = scipy.io.loadmat(io.BytesIO(content), variable_names=["data", "testdata"])
    return tuple(_column_major(formats.grey_values(arrays[name], path, name)) for name in ("data", "testdata"))


def _download_chardata(path):
    """Downloads, checks, and only then gives the file its name."""
    print(f"downloading {CHARDATA_URL}", flush=True)
    try:
        content = download.download(CHARDATA_URL)
        _check_chardata(content, CHARDATA_URL)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content)
    except OSError as error:
        raise UserError(f"Cannot download to {path} ({error}); {_where_to_get_chardata()}") from error


def _where_to_get_chardata():
    return f"get {CHARDATA_URL} and name its folder: --data_dir=FOLDER."


def _check_chardata(content, origin):
    if git_blob_hash(content) != CHARDATA_BLOB:
        raise UserError(
            f"{origin} is not the paper's chardata.mat: its git blob hash is {git_blob_hash(content)}, not "
            f"{CHARDATA_BLOB}; remove it, and {_where_to_get_chardata()}"
        )


def git_blob_hash(content):
    """The name that git gives to bytes, hexadecimal."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _column_major(columns):
    """[784, n], an image a column and stored column by column -> [n, 28, 28].

    That the images are upright follows from the file's content, which is checked; the images themselves do not tell:
    whether characters are higher than wide, or heavier at the top, differs from alphabet to alphabet.
    """
    return np.ascontiguousarray(columns.T.reshape(-1, 28, 28).transpose(0, 2, 1))
