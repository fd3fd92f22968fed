"""The lock of a folder in which one process at a time may work."""

import fcntl
import os
import sys

from iwae_tf.errors import UserError


class FolderLock:
    """An exclusive lock on a folder; it ends with the process, however that ends.

    Args:
      path: the folder, which has to exist when the lock is taken.
    """

    def __init__(self, path):
        self._path = path
        self._descriptor = None

    def take(self):
        """Takes the lock, if this object does not hold it already.

        Raises:
          UserError: another process holds it.
        """
        if self._descriptor is not None:
            return
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(
                f"Another process is working in {self._path}; wait until it ends, or choose another run directory."
            ) from error
        except OSError as error:
            # Some network file systems have no locks.
            print(f"iwae_tf: cannot lock {self._path} ({error.strerror}); start one process only", file=sys.stderr)
        self._descriptor = descriptor

    def release(self):
        """Releases the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
