"""Names in a CSV file that a spreadsheet may open: none of them is taken for a formula."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escaped(name: str) -> str:
    """The name; with a ' before it if a spreadsheet would take it for a formula (it begins with = + - @, tab or CR)."""
    return f"'{name}" if _FORMULA.match(name) else name


def unescaped(cell: str) -> str:
    """The name that `escaped` has written; a name that needs no ' keeps those that it has."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
