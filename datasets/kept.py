"""What the check of a data set has decoded, kept for what follows it: the cache, white levels, copies, empty masks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from datasets.decode import Decoded, digest, to_rgb
from datasets.levels import bits_in_use
from datasets.pairing import Case


@dataclass(frozen=True)
class Seen:
    """What is remembered of every case.

    bits: see `datasets.levels.bits_in_use`.
    empty: whether the mask has no target; None without a mask.
    digest: see `datasets.decode.digest`, of what `read_image` returns; None if it was not asked for.
    """

    bits: int
    empty: bool | None
    digest: str | None


@dataclass
class Kept:
    """Filled by `datasets.checks.check_cases`, from several threads.

    Args:
        budget: bytes of decoded images and masks to keep, counted as `SegmentationFolder.keep_decoded` counts them.
        digests: whether the images' digests will be asked for; they take longer than decoding.
    """

    budget: int = 0
    digests: bool = False
    seen: dict[Case, Seen] = field(default_factory=dict)
    _arrays: dict[Case, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, case: Case, image: Decoded, mask: np.ndarray | None) -> None:
        """A case, decoded: its mask as `read_mask` returns it."""
        pixels = image.colours
        self.seen[case] = Seen(
            bits_in_use(pixels),
            None if mask is None else not mask.any(),
            digest(to_rgb(pixels)) if self.digests else None,
        )
        height, width = pixels.shape[:2]
        size = 3 * height * width * (1 if pixels.dtype == np.uint8 else 4) + (0 if mask is None else mask.nbytes)
        with self._lock:
            if size > self.budget:
                return
            self.budget -= size
        self._arrays[case] = pixels, mask

    def bits(self) -> dict[Case, int]:
        """Of every case, the bits in use."""
        return {case: seen.bits for case, seen in self.seen.items()}

    def take(self, case: Case) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The image as stored, without alpha, and the mask; they are kept no longer. None if they were not."""
        return self._arrays.pop(case, None)
