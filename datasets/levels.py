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


def unfit_white_level(bits: Iterable[int], white_level: int | None) -> str | None:
    """A warning if most images are 16-bit files that a white level reads as nearly black, or clips.

    Args:
        bits: `bits_in_use` of each image, at least one.
        white_level: see `datasets.decode.read_image`.
    """
    (usual, count), *_ = Counter(bits).most_common()
    fitting, white = 2**usual - 1, white_level or 65535
    if 0 < usual <= white.bit_length() - 2:  # a single bit less may be the scene
        found = f"read as nearly black (0 to {255 * fitting / white:.1f} of 255)"
    elif usual > white.bit_length():
        found = f"clipped at the white level {white}"
    else:
        return None
    uses, are, them = ("1 image uses", "is", "it") if count == 1 else (f"{count} images use", "are", "them")
    return f"{uses} {usual} of 16 bits and {are} {found}. --white_level {fitting} fits {them} (auto in training)"


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
