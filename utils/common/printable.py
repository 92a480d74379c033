"""Text of strangers, such as file names, as a terminal may show it. Imports nothing."""

from __future__ import annotations

# What turns the direction of writing: a name could look like another one.
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROL = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *map(ord, _DIRECTIONS)]
_ESCAPED = {code: chr(code).encode("unicode_escape").decode("ascii") for code in _CONTROL}
_KEPT = {ord("\n"): "\n", ord("\t"): "\t"}


def printable(text: str) -> str:
    """The text with its control characters escaped, but for line breaks and tabs: \\x1b moves no cursor."""
    return text.translate(_ESCAPED | _KEPT)


def one_line(text: str) -> str:
    """The same with line breaks and tabs escaped, too."""
    return text.translate(_ESCAPED)
