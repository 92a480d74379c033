"""The one exception whose message is written for the person at the terminal."""

from __future__ import annotations

from utils.common.printable import one_line


class UserError(Exception):
    """What is wrong, in which file, and what to do about it; scripts print it and exit with code 2, no traceback.

    Each argument is one line. Line breaks and other control characters in it, which names of files may hold, are
    escaped.
    """

    def __str__(self) -> str:
        return "\n".join(one_line(str(line)) for line in self.args)
