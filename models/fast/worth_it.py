"""The sizes from which each fast form pays off (docs/development/speed.md); smaller maps use the plain form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

FOLDING_PIXELS = 1 << 15  # pixels of the batch: columns folded into channels (columns.py, narrow_conv.py)
COMPILED_PIXELS = 1 << 11  # pixels of the batch: C++ kernels in training (norm_passes.py)
WINOGRAD_PRODUCTS = 1 << 25  # pixels of a map * channels in * channels out: Winograd's algorithm (winograd.py)


@contextmanager
def at_any_size() -> Iterator[None]:
    """A context in which every fast form runs on maps of any size, for comparisons on small images."""
    names = ("FOLDING_PIXELS", "COMPILED_PIXELS", "WINOGRAD_PRODUCTS")
    before = {name: globals()[name] for name in names}
    globals().update(dict.fromkeys(names, 0))
    try:
        yield
    finally:
        globals().update(before)
