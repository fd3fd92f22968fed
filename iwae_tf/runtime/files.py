"""Files that are there whole or not at all: atomic writes, arrays, the cache folder."""

import io
import os
import pathlib
import tempfile

import numpy as np


def cache_folder():
    """The folder for what can be downloaded or computed again: $XDG_CACHE_HOME/iwae_tf, or ~/.cache/iwae_tf."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "iwae_tf"


def write_atomically(path, content):
    """Writes bytes under a temporary name and renames, so that no reader ever sees half a file."""
    path = pathlib.Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder):
    """Makes a renaming outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_arrays(path, arrays, compress=True):
    """Writes a .npz atomically.

    Args:
      path: the file.
      arrays: name -> array.
      compress: whether it shall be small rather than quick.
    """
    packed = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(packed, **arrays)
    write_atomically(path, packed.getbuffer())


def read_arrays(path, names=None):
    """Reads what `write_arrays` wrote.

    Args:
      path: a .npz file; nothing in it is executed.
      names: those of the arrays to read, as far as they are there; None for all.

    Returns:
      Name -> array; None where there is no such file or it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            read = {name: arrays[name] for name in arrays.files if names is None or name in names}
    except Exception:  # A damaged file can end the reading in a dozen ways, out of memory among them.
        return None
    return read if all(isinstance(array, np.ndarray) for array in read.values()) else None
