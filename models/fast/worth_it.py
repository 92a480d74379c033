"""The sizes from which each fast form pays off (docs/development/speed.md); smaller maps use the plain form."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

FOLDING_PIXELS = 1 << 15  # pixels of the batch: columns folded into channels (columns.py, narrow_conv.py)
COMPILED_PIXELS = 1 << 11  # pixels of the batch: C++ kernels in training (norm_passes.py)
WINOGRAD_CHANNELS = 64  # channels in and out: Winograd's algorithm (winograd.py)
WINOGRAD_PRODUCTS = 1 << 25  # pixels of a map * channels in * channels out: Winograd's algorithm (winograd.py)


@contextmanager
def at_any_size() -> Iterator[None]:
    """A context in which every fast form runs on maps of any size, for comparisons on small images."""
    with _changed(dict.fromkeys(("FOLDING_PIXELS", "COMPILED_PIXELS", "WINOGRAD_PRODUCTS"), 0)):
        yield


@contextmanager
def without_winograd() -> Iterator[None]:
    """A context in which Winograd's algorithm, whose weights take twice the memory, is not chosen."""
    with _changed({"WINOGRAD_CHANNELS": sys.maxsize}):
        yield


@contextmanager
def _changed(values: dict[str, int]) -> Iterator[None]:
    before = {name: globals()[name] for name in values}
    globals().update(values)
    try:
        yield
    finally:
        globals().update(before)
