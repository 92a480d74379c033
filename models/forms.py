"""The switch between the fast forms of the blocks and the plain ones, which read as their equations do.

Both give the same numbers up to rounding: the tests compare them, and benchmark.py times them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_plain = False


def plain() -> bool:
    """Whether the plain forms are asked for; compilers and exporters get them, too, and find fast ones of their own."""
    return _plain or torch.compiler.is_compiling() or torch.jit.is_tracing()


@contextmanager
def plain_forms(wanted: bool = True) -> Iterator[None]:
    """A context in which every block runs in its plain form (if `wanted`: else it changes nothing)."""
    global _plain
    before, _plain = _plain, _plain or wanted
    try:
        yield
    finally:
        _plain = before
