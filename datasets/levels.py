"""White levels of 16-bit images: for example, the values of a 12-bit camera do not exceed 4095."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from datasets.checks import THREADS
from datasets.decode import read_pixels
from datasets.pairing import Case
from utils.common.progress import Progress


def bits_in_use(pixels: np.ndarray) -> int:
    """The number of bits of the largest value of a 16-bit image, at least 8; 0 for an 8-bit image."""
    return max(8, int(pixels.max()).bit_length()) if pixels.dtype == np.uint16 else 0


def dark_images(bits: Iterable[int]) -> str | None:
    """A warning if most images use fewer than 16 bits of 16-bit files, so that without a white level they are dark.

    Args:
        bits: `bits_in_use` of each image, at least one.
    """
    (usual, count), *_ = Counter(bits).most_common()
    if not 0 < usual < 16:
        return None
    level = 2**usual - 1
    return (
        f"{count} images use {usual} of 16 bits and are read as nearly black (0 to {level / 257:.1f} of 255). "
        f"Train with --white_level {level} (or auto)"
    )


def common_white_level(cases: Sequence[Case], progress: bool = True, known: Mapping[Case, int] | None = None) -> int:
    """The white level of the bits that the 16-bit images of the cases use; 65535 if all images have 8 bits.

    Args:
        cases: those that are not in `known` are decoded.
        known: `bits_in_use` of cases that were decoded before.

    Raises:
        UserError: for an image that cannot be read.
    """

    def bits(case: Case) -> int:
        return known[case] if known and case in known else bits_in_use(read_pixels(case.image))

    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(bits, cases)
        most = max(Progress(looks, total=len(cases), desc="white level", unit="img", leave=False, disable=not progress))
    return 2 ** (most or 16) - 1
