"""Progress messages of long computations."""

import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from iwae_tf.runtime import console


class StatusLine:
    """A line that is overwritten on a terminal; in a file, only the lines to keep are printed.

    Args:
      stream: where to print; by default, standard error, unless `console` is silent.
      seconds_between: the minimum time between two updates.
    """

    def __init__(self, stream: TextIO | None = None, seconds_between: float = 0.5):
        # There is no standard error where it was closed, as by 2>&- in a shell.
        self._stream = stream or (console.is_talkative() and sys.stderr) or io.StringIO()
        self._seconds_between = seconds_between
        self._last_time = time.monotonic()
        self._width = 0

    def update(self, make_text: Callable[[], str]) -> None:
        """Shows `make_text()` on a terminal, unless the last update was very recent."""
        can_move = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        if can_move and time.monotonic() - self._last_time > self._seconds_between:
            # A line that wraps could not be overwritten.
            self._write(make_text()[: shutil.get_terminal_size().columns - 1], "\r")

    def keep(self, text: str) -> None:
        """Prints a line that will not be overwritten."""
        self._write(text, "\n")

    def _write(self, text, end):
        self._last_time = time.monotonic()
        padding = " " * (self._width - len(text))
        self._width = len(text) if end == "\r" else 0
        try:
            print(text + padding, end=end, flush=True, file=self._stream)
        except BrokenPipeError:
            # The reader has gone, as after `| head`. The computation continues without output.
            with open(os.devnull, "w") as null_device:
                os.dup2(null_device.fileno(), self._stream.fileno())


class Countdown:
    """Reports the progress over many images: a status line, which is kept after every tenth of the images.

    Args:
      total: the number of images.
      done: how many of them were finished earlier.
      later: the number of images still to come after these; the time left includes them.
      noun: what they are.
    """

    def __init__(self, total: int, done: int = 0, later: int = 0, *, noun: str):
        self._total, self._first, self._later = total, done, later
        self._noun = noun
        self._line = StatusLine()
        self._start = time.monotonic()
        self._tenths = 0

    def update(self, done: int, result: str) -> None:
        """Shows the number of finished images, the result so far, and the time left."""
        missing = self._total - done + self._later
        seconds = (time.monotonic() - self._start) / max(done - self._first, 1) * missing
        text = f"{done:,} of {self._total:,} {self._noun}  {result}  {duration(seconds)} left"
        self._line.update(lambda: text)
        if done * 10 // self._total > self._tenths:
            self._tenths = done * 10 // self._total
            self._line.keep(text)


def duration(seconds: float) -> str:
    """Formats a time as "42 s", "7 min 05 s" or "3 h 20 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
