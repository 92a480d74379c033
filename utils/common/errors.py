"""The exception whose message is written for the user."""

from __future__ import annotations

from utils.common.printable import one_line


class UserError(Exception):
    """An error for the user: what is wrong, where, and what to do. Scripts print it and exit with code 2.

    Each argument is one line of the message. Line breaks and control characters in an argument, e.g. from the name of a
    file, are escaped.
    """

    def __str__(self) -> str:
        return "\n".join(one_line(str(line)) for line in self.args)
