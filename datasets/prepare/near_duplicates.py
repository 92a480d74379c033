"""Detection of identical and nearly identical pictures in a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import cv2
import numpy as np

NEAR = 4  # of 64 bits: the largest difference between the perceptual hashes of near duplicates


class Picture(Protocol):
    """The compared values: SHA-256 of the pixels of image and mask, perceptual hash, share of target pixels."""

    digest: str
    mask_digest: str
    phash: int
    share: float


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits that are robust to resizing, compression and brightness: the signs of the lowest frequencies.

    Args:
        image: (H, W) gray or (H, W, 3).
    """
    gray = image.astype(np.float32)
    gray = cv2.resize(gray if gray.ndim == 2 else gray.mean(axis=2), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(gray)[:8, :8].flatten()
    bits = low > np.sort(low[1:])[31]  # the median of 63
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def duplicates_in_list(pictures: Mapping[str, Picture]) -> list[str]:
    """Findings about identical pictures in one list; those with contradicting masks come first."""
    first: dict[str, str] = {}
    contradicting, equal = [], []
    for name, picture in pictures.items():
        other = first.setdefault(picture.digest, name)
        if other == name:
            continue
        if pictures[other].mask_digest == picture.mask_digest:
            equal.append(f'"{other}" and "{name}" are the same picture with the same mask, which counts twice')
        else:
            shares = " and ".join(f"{100 * of.share:.3g}" for of in (pictures[other], picture))
            contradicting.append(
                f'"{other}" and "{name}" are the same picture with contradicting masks ({shares} % target): keep the '
                "one whose mask is right"
            )
    return contradicting + equal


def duplicates_across(
    one: str, a: Mapping[str, Picture], other: str, b: Mapping[str, Picture]
) -> tuple[list[str], list[str]]:
    """Findings about pictures that are in two lists: (identical ones, near duplicates), the nearest first.

    Args:
        one, other: names of the lists.
        a, b: their pictures, by case.
    """
    exact, near = [], []
    for first, second, distance in _near(a, b):
        pair = f'"{first}" in {one} and "{second}" in {other}'
        if distance is None:
            exact.append(f"{pair} are the same picture")
        else:
            near.append((distance, f"{pair} are nearly the same picture ({distance} of 64 bits differ)"))
    return exact, [sentence for _, sentence in sorted(near, key=lambda found: found[0])]


def _near(a: Mapping[str, Picture], b: Mapping[str, Picture]) -> Iterator[tuple[str, str, int | None]]:
    """The pairs of identical pictures (None) and of near duplicates (number of differing bits of their hashes)."""
    if not b:
        return
    names, hashes = list(b), np.array([picture.phash for picture in b.values()], np.uint64)
    ones = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)
    for first, picture in a.items():
        distances = ones[(hashes ^ np.uint64(picture.phash)).view(np.uint16)].reshape(-1, 4).sum(axis=1)
        for index in np.flatnonzero(distances <= NEAR):
            second = names[index]
            yield first, second, None if b[second].digest == picture.digest else int(distances[index])
