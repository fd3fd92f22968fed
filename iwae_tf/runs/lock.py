"""The lock of a folder in which one process at a time may work."""

import pathlib

import filelock

from iwae_tf.errors import UserError
from iwae_tf.runtime import console


class FolderLock:
    """An exclusive lock on a folder; it ends with the process, however that ends.

    Args:
      path: the folder, which has to exist when the lock is taken.

    Attributes:
      file: the file that is locked; it may stay in the folder.
    """

    def __init__(self, path: pathlib.Path):
        self.file = path / ".lock"
        self._path = path
        self._lock = filelock.FileLock(self.file, timeout=0, thread_local=False)

    def take(self) -> None:
        """Takes the lock, if this object does not hold it already.

        Raises:
          UserError: another process holds it.
        """
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f"Another process is working in {self._path}; wait until it ends, or choose another run directory."
            ) from error
        except NotImplementedError:
            # Some network file systems have no locks.
            console.warn(f"cannot lock {self._path}; start one process only")

    def release(self) -> None:
        """Releases the lock."""
        self._lock.release()
