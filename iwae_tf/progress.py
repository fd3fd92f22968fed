"""What long work prints while it goes on."""

import os
import sys
import time


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
        self._write(text, "\n")

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


def duration(seconds):
    """Writes a time as people say it: "42 s", "7 min 05 s" or "3 h 20 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
