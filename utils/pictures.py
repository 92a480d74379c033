"""Pictures of what a network does: rows of tiles, as TensorBoard, PNG files and the docs show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.files import replacing

GAP = 4  # pixels between tiles
RIGHT, MISSED, FALSE = (60, 180, 75), (240, 200, 40), (220, 50, 47)  # colours of errors(), RGB


def tile(array: np.ndarray) -> np.ndarray:
    """(H, W) in 0..1, or (H, W, 3) uint8, as (H, W, 3) uint8."""
    if array.ndim == 2:
        array = np.repeat(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    return array


def errors(image: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image (H, W, 3), dimmed, with target pixels that were found green, missed yellow, false ones red."""
    picture = (0.6 * image).astype(np.uint8)
    for where, colour in ((target & prediction, RIGHT), (target & ~prediction, MISSED), (prediction & ~target, FALSE)):
        picture[where] = (0.4 * picture[where] + 0.6 * np.array(colour)).astype(np.uint8)
    return picture


def grid(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str] = ()) -> np.ndarray:
    """Rows of tiles as one picture (H, W, 3) uint8 on white; captions, if given, one a row, above it.

    The tiles of a row are equally high; a row that is narrower than others is filled up with white.
    """
    stacked = []
    for i, row in enumerate(rows):
        strip = np.hstack([_framed(tile(array)) for array in row])
        if captions:
            strip = np.vstack([_caption(captions[i], strip.shape[1]), strip])
        stacked.append(strip)
    width = max(strip.shape[1] for strip in stacked)
    return np.vstack([_widened(strip, width) for strip in stacked])


def save_png(path: Path, picture: np.ndarray) -> None:
    """Writes (H, W, 3) RGB or (H, W) uint8."""
    ok, data = cv2.imencode(".png", picture if picture.ndim == 2 else picture[..., ::-1])
    assert ok, "OpenCV encodes every uint8 picture"
    with replacing(path) as beside:
        beside.write_bytes(data.tobytes())


def _framed(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def _widened(strip: np.ndarray, width: int) -> np.ndarray:
    return np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255)


def _caption(text: str, width: int) -> np.ndarray:
    bar = np.full((18, width, 3), 255, np.uint8)
    return cv2.putText(bar, text, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
