"""What all commands share: a quiet start of TensorFlow, errors in one line, exit statuses."""

import contextlib
import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence

from iwae_tf.errors import UserError, first_line
from iwae_tf.runtime import signals

# Failures to write that a user can fix, and how.
_DISK_ERRORS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space") | dict.fromkeys(
    (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO), "make it writable"
)


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow without its start-up messages, which would bury the output of the program."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Whatever the user's other programs need. TensorFlow Probability may import matplotlib, see `figures`.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("MPLBACKEND", None)
    # Some messages are printed before any setting is read.
    with contextlib.nullcontext() if "tensorflow" in sys.modules else _messages_set_aside():
        import keras
        import tensorflow as tf
        import tensorflow_probability  # noqa: F401
    tf.get_logger().setLevel("ERROR")
    # On a GPU, TensorFlow rounds the operands of float32 products to 10 bits by default. Here float32 means float32.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@contextlib.contextmanager
def _messages_set_aside():
    """A context whose standard error is shown only if it fails, or if the process dies in it."""
    try:
        standard_error = os.dup(2)
    except OSError:  # It was closed, as by 2>&- in a shell.
        standard_error = os.open(os.devnull, os.O_WRONLY)
    with tempfile.TemporaryFile() as messages:
        finish = _show_at_end(messages.fileno(), standard_error)
        os.dup2(messages.fileno(), 2)
        succeeded = False
        try:
            yield
            succeeded = True
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
            finish(succeeded)


def _show_at_end(messages, standard_error):
    """Copies the file `messages` to `standard_error` when this process dies.

    TensorFlow aborts the process if the processor lacks an instruction, so another process waits for that.

    Returns:
      A function that ends the waiting; the messages are copied then if its argument is False.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(reader)

        def finish(succeeded):
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(b"1" * succeeded)
            os.waitpid(child, 0)

        return finish
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(writer)
        if not os.read(reader, 1):
            os.write(standard_error, os.pread(messages, os.fstat(messages).st_size, 0))
    finally:
        os._exit(0)


def run_command(main: Callable[[Sequence[str]], object], interrupted: str, argv: Sequence[str] | None = None) -> None:
    """Runs a command; an error that the user can fix is printed in one line, with exit status 1.

    Args:
      main: a function of the command line.
      interrupted: what to say after a signal; the exit status is then 128 plus its number.
      argv: the command line, by default that of the process.
    """
    try:
        main(sys.argv if argv is None else argv)
    except UserError as error:
        sys.exit(f"iwae_tf: {error}")
    except signals.Interrupted as error:
        print(f"iwae_tf: stopped by {error}; the work so far is saved, {interrupted}", file=sys.stderr)
        sys.exit(128 + error.number)
    except KeyboardInterrupt:
        print(f"\niwae_tf: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # Nobody reads the output any more, as with | head. Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        # A disk can be full wherever something is written.
        if error.errno not in _DISK_ERRORS:
            raise
        name = f" {error.filename}" if error.filename else ""
        sys.exit(f"iwae_tf: Cannot write{name} ({error.strerror}); {_DISK_ERRORS[error.errno]}; {interrupted}")
    except Exception as error:
        reason = _reason_of_tensorflow(error)
        if not reason:
            raise
        sys.exit(f"iwae_tf: {reason}; {interrupted}")


def _reason_of_tensorflow(error):
    """The cause of an error of TensorFlow that a user can fix; "" for any other error."""
    if "tensorflow" not in sys.modules:
        return ""
    import tensorflow as tf

    if not isinstance(error, tf.errors.OpError):
        return ""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return f"There is not enough memory ({first_line(error)}); use fewer samples, smaller batches or smaller layers"
    for number, advice in _DISK_ERRORS.items():
        if os.strerror(number) in str(error):
            return f"Cannot write ({first_line(error)}); {advice}"
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    # Without a cluster there are no other workers to lose.
    if not isinstance(error, lost) or "TF_CONFIG" not in os.environ:
        return ""
    return f"Another worker was lost ({type(error).__name__}); start all workers again"
