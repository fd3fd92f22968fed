"""The error that a user can mend, and what others say."""

import re


class UserError(Exception):
    """Bad input: one line that says what was passed, what was expected and how to mend it.

    The entry points print it without a traceback and exit with status 1. Every other exception is a fault of ours
    and keeps its traceback.
    """


def first_line(error):
    """What an error says, without the names that TensorFlow gives to its operations."""
    text = re.sub(r"\{\{.*?\}\} ?| \[Op:.*?\]", "", str(error)).strip()
    return (text.splitlines() or [repr(error)])[0].rstrip(".:")
