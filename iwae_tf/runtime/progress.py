"""What long work prints while it goes on."""

import contextlib
import os
import sys
import time

# (make_text, seconds between two notes), and when the last one was printed; see `noting`.
_note = None
_noted = 0.0


@contextlib.contextmanager
def noting(make_text, seconds=60.0):
    """Within it, now and then a line of progress is followed by one on the whole that it is part of.

    Args:
      make_text: a function that returns that line.
      seconds: between two of them, at least.
    """
    global _note, _noted
    _note, _noted = (make_text, seconds), time.monotonic()
    try:
        yield
    finally:
        _note = None


class StatusLine:
    """A line that is overwritten on a terminal; in a file only what is worth keeping is printed."""

    def __init__(self, stream=None, seconds_between=0.5):
        self._stream = stream or sys.stdout
        self._between = seconds_between
        self._shown = time.monotonic()
        self._width = 0

    def update(self, make_text):
        """Shows `make_text()` on a terminal, if the last update is some time ago."""
        if self._stream.isatty() and time.monotonic() - self._shown > self._between:
            self._write(make_text(), "\r")

    def keep(self, text):
        """Prints a line that stays."""
        global _noted
        self._write(text, "\n")
        if _note and time.monotonic() - _noted > _note[1]:
            _noted = time.monotonic()
            self._write(_note[0](), "\n")

    def _write(self, text, end):
        self._shown = time.monotonic()
        padding = " " * (self._width - len(text))
        self._width = len(text) if end == "\r" else 0
        try:
            print(text + padding, end=end, flush=True, file=self._stream)
        except BrokenPipeError:
            # Nobody reads any more, as after `| head`; the work goes on without a word.
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


class Countdown:
    """Reports work on many images: a status line, of which one stays for every tenth.

    Args:
      total: how many images there are.
      done: how many of them were finished before.
      later: how many come after these, for which there has to be time, too.
    """

    def __init__(self, total, done=0, later=0):
        self._total, self._first, self._later = total, done, later
        self._line = StatusLine()
        self._start = time.monotonic()
        self._tenths = 0

    def update(self, done, found):
        """Shows how many images are done, what was found so far, a text, and the time left."""
        missing = self._total - done + self._later
        seconds = (time.monotonic() - self._start) / max(done - self._first, 1) * missing
        text = f"{done:,} of {self._total:,} images  {found}  {duration(seconds)} left"
        self._line.update(lambda: text)
        if done * 10 // self._total > self._tenths:
            self._tenths = done * 10 // self._total
            self._line.keep(text)


def duration(seconds):
    """Writes a time as people say it: "42 s", "7 min 05 s" or "3 h 20 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
