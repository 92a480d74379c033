"""A check of what the networks and losses of users return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.common.errors import UserError


def check_shape(found: Any, expected: Sequence[int], must: str) -> None:
    """Checks that `found` is a tensor of the shape `expected`; the error begins with the words `must`.

    Raises:
        UserError: with both shapes, or with the type of something else.
    """
    shape = getattr(found, "shape", None)
    if shape != expected:
        got = type(found).__name__ if shape is None else tuple(shape)
        raise UserError(f"{must} {tuple(expected)}, got {got}")
