"""The exception for bad input, and one-line messages of other exceptions."""

import re


class UserError(Exception):
    """Bad input. The message is one line: what was passed, what was expected and how to fix it.

    The commands print the message without a traceback and exit with status 1. Any other exception is a bug and keeps
    its traceback.
    """


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, without TensorFlow's names of operations."""
    text = re.sub(r"\{\{.*?\}\} ?| \[Op:.*?\]", "", str(error)).strip()
    return (text.splitlines() or [repr(error)])[0].rstrip(".:")
