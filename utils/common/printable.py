"""Text for messages: escaping of untrusted text, such as file names, and the first names of many."""

from __future__ import annotations

from collections.abc import Sequence

# Characters that change the direction of writing, by which a name can imitate another one.
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROL = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *map(ord, _DIRECTIONS)]
_ESCAPED = {code: chr(code).encode("unicode_escape").decode("ascii") for code in _CONTROL}
_KEPT = {ord("\n"): "\n", ord("\t"): "\t"}


def printable(text: str) -> str:
    """The text with its control characters escaped, except line breaks and tabs."""
    return text.translate(_ESCAPED | _KEPT)


def one_line(text: str) -> str:
    """The text with all control characters escaped, including line breaks and tabs."""
    return text.translate(_ESCAPED)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names and how many more there are: "a, b, c and 4 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_three(names: Sequence[str]) -> str:
    """The first names, and dots if there are more: "a, b, c ..."."""
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
