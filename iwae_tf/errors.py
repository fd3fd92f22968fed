"""The error that a user can mend."""


class UserError(Exception):
    """Bad input: one line that says what was passed, what was expected and how to mend it.

    The entry points print it without a traceback and exit with status 1. Every other exception is a fault of ours
    and keeps its traceback.
    """
