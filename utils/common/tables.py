"""Rows of cells as the terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence

from utils.common.printable import one_line


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """The rows, one a line, with their columns under each other."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
