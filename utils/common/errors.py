"""The one exception whose message is written for the person at the terminal."""


class UserError(Exception):
    """What is wrong, in which file, and what to do about it; scripts print it and exit with code 2, no traceback."""
