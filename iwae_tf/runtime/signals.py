"""Stops work cleanly on SIGINT and SIGTERM.

Within `deferred()`, these signals are only recorded. Long computations call `received()` or `check()` at points where
they can stop without losing work; a second SIGINT ends the process at once. Python runs signal handlers only between
its own instructions, so a handler would wait until a compiled call of several seconds has ended. Therefore, a separate
thread waits for the signals.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []


class Interrupted(Exception):
    """A signal stopped the work; everything done so far is saved.

    Attributes:
      number: the number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def received() -> int | None:
    """Returns the number of the signal that asked to stop, or None."""
    return _received[0] if _received else None


def check() -> None:
    """Raises `Interrupted` if a signal asked to stop."""
    stop_for(received())


def stop_for(number: int | None) -> None:
    """Raises `Interrupted` for the number of a signal, perhaps one that another worker received; not for 0 or None."""
    if number:
        raise Interrupted(number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A context in which signals are recorded. It has no effect in threads other than the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_listen, args=(reader,), daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Python writes to the pipe only for signals that have a Python handler.
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield
    finally:
        _received.clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(writer)  # Ends the thread, which closes the other end.


def _listen(reader):
    """Reads the numbers of the signals, one byte each, until the pipe is closed."""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            number = byte[0]
            if _received and number == signal.SIGINT:
                print("\niwae_tf: stopped at once; the work saved so far is kept", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
            if number in _SIGNALS and not _received:
                _received.append(number)
                name = signal.Signals(number).name
                again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
                print(f"\niwae_tf: {name}: saving the work done so far{again}", file=sys.stderr, flush=True)
