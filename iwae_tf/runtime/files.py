"""Atomic file writes, files of arrays, and the cache folder."""

import io
import os
import pathlib
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import platformdirs


def cache_folder() -> pathlib.Path:
    """Returns the folder of what can be downloaded or computed again, on Linux ~/.cache/iwae_tf."""
    return platformdirs.user_cache_path("iwae_tf", appauthor=False)


def write_atomically(path: str | pathlib.Path, content: bytes | memoryview) -> None:
    """Writes a file under a temporary name and renames it, so a reader never sees an incomplete file."""
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
    """Makes sure that a renaming survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_arrays(path: str | pathlib.Path, arrays: Mapping[str, Any], compress: bool = True) -> None:
    """Writes a .npz file atomically.

    Args:
      path: the file.
      arrays: name -> array.
      compress: whether to compress the arrays, which takes longer.
    """
    packed = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(packed, **arrays)
    write_atomically(path, packed.getbuffer())


def read_arrays(path: str | pathlib.Path, names: Collection[str] | None = None) -> dict[str, np.ndarray] | None:
    """Reads a .npz file. Never executes code from it.

    Args:
      path: the file.
      names: the arrays to read; those that the file lacks are left out. None reads all arrays.

    Returns:
      Name -> array, or None if the file is missing or damaged.
    """
    if not pathlib.Path(path).is_file():
        return None  # Reading a pipe would not end.
    try:
        with np.load(path, allow_pickle=False) as arrays:
            read = {name: arrays[name] for name in arrays.files if names is None or name in names}
    except Exception:  # Damaged files raise many kinds of exceptions, including MemoryError.
        return None
    return read if all(isinstance(array, np.ndarray) for array in read.values()) else None
