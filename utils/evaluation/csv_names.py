"""Escaping of names in CSV files, so that a spreadsheet takes none of them for a formula."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escaped(name: str) -> str:
    """The name, with a ' in front if a spreadsheet would take it for a formula (begins with = + - @, tab or CR)."""
    return f"'{name}" if _FORMULA.match(name) else name


def unescaped(cell: str) -> str:
    """The inverse of `escaped`: the original name, including a ' that belongs to it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
