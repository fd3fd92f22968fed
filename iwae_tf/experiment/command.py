"""What all commands share: a quiet start of TensorFlow, errors in one line, exit statuses."""

import errno
import os
import signal
import sys
import tempfile

from iwae_tf.errors import UserError, first_line
from iwae_tf.runtime import signals

# What a user can mend where something is written, and how.
_DISK_ERRORS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room") | dict.fromkeys(
    (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO), "see to it that it can be written"
)


def import_tensorflow_quietly():
    """Imports TensorFlow without its start-up messages, which would bury what the program prints.

    Some of them come before any setting is read, so standard error is set aside; it is shown if the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as set_aside:
        standard_error = os.dup(2)
        os.dup2(set_aside.fileno(), 2)
        try:
            import tensorflow as tf
            import tensorflow_probability  # noqa: F401
        except BaseException:
            set_aside.seek(0)
            os.write(standard_error, set_aside.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
    tf.get_logger().setLevel("ERROR")


def run_command(main, interrupted):
    """Runs a command: errors that a user can mend are one line and exit status 1.

    Args:
      main: a function of the command line.
      interrupted: what to say after a signal, which gives the exit status 128 and its number.
    """
    try:
        main(sys.argv)
    except UserError as error:
        sys.exit(f"iwae_tf: {error}")
    except signals.Interrupted as error:
        print(f"iwae_tf: ended by {error}; what was done is saved, {interrupted}", file=sys.stderr)
        sys.exit(128 + error.number)
    except KeyboardInterrupt:
        print(f"\niwae_tf: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        # A full disk can be met wherever something is written.
        if error.errno not in _DISK_ERRORS:
            raise
        name = f" {error.filename}" if error.filename else ""
        sys.exit(f"iwae_tf: Cannot write{name} ({error.strerror}); {_DISK_ERRORS[error.errno]}, and {interrupted}")
    except Exception as error:
        reason = _reason_of_tensorflow(error)
        if not reason:
            raise
        sys.exit(f"iwae_tf: {reason}, and {interrupted}")


def _reason_of_tensorflow(error):
    """What a user can mend behind an error of TensorFlow; "" for any other error."""
    if "tensorflow" not in sys.modules:
        return ""
    import tensorflow as tf

    if not isinstance(error, tf.errors.OpError):
        return ""
    for number, advice in _DISK_ERRORS.items():
        if os.strerror(number) in str(error):
            return f"Cannot write ({first_line(error)}); {advice}"
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    # Without other workers there is nobody to lose.
    if not isinstance(error, lost) or "TF_CONFIG" not in os.environ:
        return ""
    return f"Another worker was lost ({type(error).__name__}); start all workers again"
