"""The contact sheet of a prediction: image, outlined mask and probability of up to `SHOWN` images, in one picture.

The row of an image is drawn when the image is predicted and stored with its other results. The sheet is assembled from
the stored rows at the end, so a resumed run and a run of several processes end with the same sheet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from utils.common.pictures import as_rgb8, caption, grid, overlay, tile

SHOWN = 24  # images
ACROSS = 3  # images side by side
SIDE = 160  # of a picture, pixels
MOST_LETTERS = 64  # of a name
ROW = grid([[np.ones((SIDE, SIDE))] * 3], [""]).shape  # of one image


def choose(names: Iterable[str]) -> frozenset[str]:
    """Up to `SHOWN` of the names, chosen by their hashes: when a folder grows, most of the choice stays."""
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest())
    return frozenset(by_hash[:SHOWN])


def draw_row(
    name: str, pixels: np.ndarray, probability: np.ndarray, mask: np.ndarray, white_level: int | None = None
) -> np.ndarray:
    """The name above image, outlined mask and probability; (H, W, 3) uint8 of shape `ROW`.

    A pixel of a reduced probability map or mask is the highest of those that it stands for: no small target gets lost.

    Args:
        name: of the image.
        pixels: as stored, (H, W) or (H, W, 3).
        probability: (H, W) in 0..1.
        mask: (H, W) bool.
        white_level: value of a 16-bit image that is white.
    """
    scale = SIDE / max(probability.shape)
    height, width = (max(1, round(scale * side)) for side in probability.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    image = as_rgb8(cv2.resize(pixels, (width, height), interpolation=method), white_level)
    highest, target = (
        _resized_by_maximum(_resized_by_maximum(array, height, 0), width, 1) for array in (probability, mask)
    )
    tiles = [image, overlay(image, target), tile(highest)]
    return grid([[_centred(each) for each in tiles]], [_short(name)])


def assemble(files: Iterable[Path], images: int) -> np.ndarray | None:
    """The stored rows as one picture; None without any.

    Args:
        files: of `draw_row`, those that cannot be read are left out.
        images: how many were predicted.
    """
    rows = [row for file in files if (row := _read(file)) is not None]
    if not rows:
        return None
    sheet = grid([rows[i : i + ACROSS] for i in range(0, len(rows), ACROSS)])
    of_all = f"{len(rows)} of {images} images" if len(rows) < images else f"{images} image{'s' if images > 1 else ''}"
    return np.vstack([caption(f"{of_all}: image, mask, probability (white: 1)", sheet.shape[1]), sheet])


def _resized_by_maximum(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    starts = np.arange(length) * array.shape[axis] // length
    if length > array.shape[axis]:
        return array.take(starts, axis)
    return np.maximum.reduceat(array, starts, axis)


def _centred(picture: np.ndarray) -> np.ndarray:
    """On a grey square of `SIDE` pixels."""
    square = np.full((SIDE, SIDE, 3), 200, np.uint8)
    top, left = ((SIDE - side) // 2 for side in picture.shape[:2])
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def _short(name: str) -> str:
    """ASCII, since OpenCV's fonts hold nothing else; a long name without its middle."""
    text = name.encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= MOST_LETTERS else f"{text[:20]}...{text[23 - MOST_LETTERS :]}"


def _read(file: Path) -> np.ndarray | None:
    try:
        row = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    return row[..., ::-1] if row is not None and row.shape == ROW else None
