"""What a command says to a person: results on standard output, everything else on standard error.

Notes and progress are at the level INFO of the logger "iwae_tf", which is on by default:
`logging.getLogger("iwae_tf").setLevel("WARNING")` turns them off.
"""

import logging
import sys

LOGGER = logging.getLogger("iwae_tf")
if LOGGER.level == logging.NOTSET:
    LOGGER.setLevel(logging.INFO)


def set_verbosity(level: str) -> None:
    """Sets what is shown: "info", "warning" or "error"."""
    LOGGER.setLevel(level.upper())


def is_talkative() -> bool:
    """Whether notes and progress are shown."""
    return LOGGER.isEnabledFor(logging.INFO)


def note(text: str) -> None:
    """Prints what is done, such as which images are evaluated."""
    if is_talkative():
        _print(text)


def warn(text: str) -> None:
    """Prints what a user should know, but need not act on at once."""
    if LOGGER.isEnabledFor(logging.WARNING):
        _print(f"iwae_tf: {text}")


def _print(text):
    if sys.stderr is not None:  # It was closed, as by 2>&- in a shell.
        print(text, file=sys.stderr, flush=True)
