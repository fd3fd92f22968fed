"""Signals that end a run in good order.

Within `deferred()` SIGTERM and SIGINT are only remembered, and whoever works asks `received()` where it can stop
without a loss; a second SIGINT ends the process at once. Python runs signal handlers between its own instructions
only, of which there are none while a compiled call goes on for seconds; so a thread waits for the signals.
"""

import contextlib
import os
import signal
import sys
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received = []


class Interrupted(Exception):
    """Work was ended by a signal, and what was done so far is saved.

    Attributes:
      number: the signal's.
    """

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.number = number


def received():
    """The number of the signal that asks to stop, or None."""
    return _received[0] if _received else None


def check():
    """Raises `Interrupted` if a signal asks to stop."""
    stop_for(received())


def stop_for(number):
    """Raises `Interrupted` for a signal's number, such as one that another worker received; not for 0 or None."""
    if number:
        raise Interrupted(number)


@contextlib.contextmanager
def deferred():
    """Within it signals are remembered; outside, and in other threads than the main one, they act as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_listen, args=(reader,), daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Only for signals with a handler of Python's own does a byte go to the pipe.
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(writer)  # Ends the thread, which closes the other end.


def _listen(reader):
    """Reads the signals' numbers, a byte each, until the pipe is closed."""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            number = byte[0]
            if _received and number == signal.SIGINT:
                print("\niwae_tf: stopped at once; what was saved before is kept", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
            if number in _SIGNALS and not _received:
                _received.append(number)
                name = signal.Signals(number).name
                again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
                print(f"\niwae_tf: {name}: finishing what is begun{again}", file=sys.stderr, flush=True)
