"""The exception whose message is written for the user."""

from __future__ import annotations

from utils.common.printable import one_line


class UserError(Exception):
    """An error for the user: what is wrong, where, and what to do. Scripts print it and exit with code 2."""
