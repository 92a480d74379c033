"""Pictures of images, masks, errors and kernels: rows of tiles for TensorBoard, PNG files and the docs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.common.files import replacing

GAP = 4  # pixels between tiles
LINE = 2  # pixels between slices of a kernel
POSITIVE, NEGATIVE = (178, 24, 43), (33, 102, 172)  # colours of numbers above and below 0, RGB
TARGET = (255, 60, 60)  # colour of overlay(), RGB
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


def as_rgb8(pixels: np.ndarray, white_level: int | None = None) -> np.ndarray:
    """An image as stored, (H, W) or (H, W, 3), uint8 or uint16, as a new picture (H, W, 3) uint8.

    white_level: white level of a 16-bit image.
    """
    if pixels.dtype == np.uint16 and white_level:
        pixels = np.minimum(pixels, np.uint16(white_level)).astype(np.uint32) * 255 // white_level
        pixels = pixels.astype(np.uint8)
    picture = pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8)
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()


def overlay(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image as `as_rgb8` takes it, with its mask (H, W) bool outlined and tinted, (H, W, 3) uint8.

    The outline is drawn around the target, not on it, where it would hide the few pixels of an infrared target.
    """
    picture = as_rgb8(pixels)
    target = mask.view(np.uint8)
    around = cv2.dilate(target, np.ones((3, 3), np.uint8)) > target
    for channel, colour in enumerate(TARGET):
        plane = picture[..., channel]
        plane[mask] = plane[mask] - plane[mask] // 4 + colour // 4
        plane[around] = colour
    return picture


def bars(values: np.ndarray, height: int = 160, width: int = 10) -> np.ndarray:
    """Numbers (N,) as bars up and down from a line at 0, the largest over half the height; (H, W, 3) uint8."""
    picture = np.full((height, width * len(values) + GAP, 3), 255, np.uint8)
    middle = height // 2
    largest = np.abs(values).max() or 1.0
    for i, value in enumerate(values):
        end = middle - round(float(value / largest) * (middle - GAP))
        colour = POSITIVE if value > 0 else NEGATIVE
        cv2.rectangle(picture, (width * i + GAP, min(end, middle)), (width * (i + 1) - 1, max(end, middle)), colour, -1)
    picture[middle] = 0
    return picture


def signed(values: np.ndarray, limit: float) -> np.ndarray:
    """Any shape as (..., 3) RGB uint8: blue at -limit, white at 0, red at limit."""
    level = np.clip(values / max(limit, 1e-12), -1, 1)[..., None]
    colour = np.where(level > 0, np.array(POSITIVE), np.array(NEGATIVE))
    return np.rint(255 + np.abs(level) * (colour - 255)).astype(np.uint8)


def kernel_slices(kernel: np.ndarray, count: int) -> np.ndarray:
    """Of a convolution's kernel (out, in, k, k), `count` output and input channels, evenly chosen:
    (count, count, k, k)."""
    rows, columns = (np.linspace(0, channels - 1, count).astype(int) for channels in kernel.shape[:2])
    return kernel[np.ix_(rows, columns)]


def draw_kernel(kernel: np.ndarray, count: int, zoom: int, limit: float | None = None) -> np.ndarray:
    """The `kernel_slices` side by side, (H, W, 3) uint8: a row for an output channel, a column for an input channel;
    red above 0, blue below, white 0, between grey lines.

    Args:
        zoom: pixels of a weight's side.
        limit: the value of the full colour (default: the largest value of the slices).
    """
    slices = kernel_slices(kernel, count)
    colours = signed(slices, np.abs(slices).max() if limit is None else limit)  # (count, count, k, k, 3)
    tiles = colours.repeat(zoom, axis=2).repeat(zoom, axis=3)
    framed = np.pad(tiles, ((0, 0), (0, 0), (0, LINE), (0, LINE), (0, 0)), constant_values=160)
    return np.vstack([np.hstack(list(row)) for row in framed])[:-LINE, :-LINE]


def grid(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str] = ()) -> np.ndarray:
    """Rows of tiles as one picture (H, W, 3) uint8 on white, with an optional caption above each row.

    The tiles of a row must have equal heights; narrower rows are padded with white.
    """
    stacked = []
    for i, row in enumerate(rows):
        strip = np.hstack([_framed(tile(array)) for array in row])
        if captions:
            strip = np.vstack([caption(captions[i], strip.shape[1]), strip])
        stacked.append(strip)
    width = max(strip.shape[1] for strip in stacked)
    return np.vstack([_widened(strip, width) for strip in stacked])


def caption(text: str, width: int) -> np.ndarray:
    """A line of text, black on white, (18, width, 3) uint8."""
    bar = np.full((18, width, 3), 255, np.uint8)
    return cv2.putText(bar, text, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


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
