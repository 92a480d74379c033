"""Overlapping tiles of large images: their positions, and the weights that join their results without a seam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models import STRIDE


@dataclass(frozen=True)
class Strip:
    """The extent of tiles along one axis: the first pixel, and the weight of each pixel inside the image."""

    start: int
    weights: np.ndarray

    @property
    def inside(self) -> slice:
        """The pixels of the image that the tiles cover."""
        return slice(self.start, self.start + len(self.weights))


def strips(length: int, tile: int, overlap: int) -> list[Strip]:
    """Tiles along one axis that cover `length` pixels; the weights of each pixel add up to 1.

    Tiles start at multiples of 8, so that the network pools the same pixels as in the whole image; the last tile may
    exceed the image by up to 7 pixels. Neighbours overlap by at least `overlap`. Within an overlap, the weight of a
    tile is 0 in the outer quarter, where the network lacks context, and rises along a squared sine to 1.

    Args:
        length: pixels.
        tile, overlap: pixels, multiples of 8; overlap at most half of tile.
    """
    padded = -(-length // STRIDE) * STRIDE
    if padded <= tile:
        return [Strip(0, np.ones(length, np.float32))]
    last = padded - tile
    count = -(-last // (tile - overlap)) + 1
    starts = [round(last * i / (count - 1) / STRIDE) * STRIDE for i in range(count)]
    weights = [_ramps(tile, overlap, before=start > 0, after=start < last) for start in starts]
    total = np.zeros(padded)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [
        Strip(start, (weight / total[start : start + tile])[: length - start].astype(np.float32))
        for start, weight in zip(starts, weights, strict=True)
    ]


def cut(pixels: np.ndarray, row: Strip, column: Strip, tile: int) -> np.ndarray:
    """A tile of an image (H, W, ...); pixels outside the image repeat its edge.

    An image narrower than a tile is not padded, because the network pads it.
    """
    part = pixels[row.inside, column.inside]
    missing = [tile - side if whole > tile else 0 for side, whole in zip(part.shape[:2], pixels.shape[:2], strict=True)]
    if any(missing):
        part = np.pad(part, [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    return part


def _ramps(tile: int, overlap: int, before: bool, after: bool) -> np.ndarray:
    """The weights of one tile, (tile,), falling towards the neighbours it has."""
    weights = np.ones(tile)
    if overlap:
        position = (np.arange(overlap) + 0.5) / overlap
        ramp = np.sin(np.pi / 2 * np.clip(2 * position - 0.5, 0, 1)) ** 2
        if before:
            weights[:overlap] *= ramp
        if after:
            weights[-overlap:] *= ramp[::-1]
    return weights
