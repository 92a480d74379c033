"""Escaping of untrusted text, such as file names, for the terminal. Imports nothing."""

from __future__ import annotations

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
