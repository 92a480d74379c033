"""The rules that decide which pixels of a mask file are target.

Data sets encode masks differently, and a wrong interpretation spoils a training without an error message: a 0/1 mask
read as 8-bit gray is black, a mask saved as JPEG has gray pixels along its edges, and a class map is not a binary mask.
Masks with a unique interpretation are accepted, all others are rejected.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.common.errors import UserError

_NOISE = 32  # of 255: the largest deviation from black and white, and between channels, due to JPEG compression
_SHOWN = 6  # most values in a message
_THRESHOLD = "--mask_threshold T makes pixels brighter than T target"


def target_pixels(pixels: np.ndarray, path: Path, threshold: float | None, is_jpeg: bool) -> np.ndarray:
    """(H, W) bool of one decoded mask file, by the rules of `datasets.decode.read_mask`.

    Args:
        pixels: (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16.
        path: of the file, for the error.
        threshold: see `datasets.decode.read_mask`.
        is_jpeg: whether the mask has compression noise.

    Raises:
        UserError: if the mask is ambiguous, with a suitable threshold.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = _without_alpha(pixels, path, check=threshold is None)
    if threshold is not None:
        return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > threshold
    full = int(np.iinfo(pixels.dtype).max)
    margin = _NOISE * (full // 255)
    if pixels.ndim == 3:
        gray = pixels.max(axis=2)
        if int((gray - pixels.min(axis=2)).max()) > (margin if is_jpeg else 0):
            return _colour_target(pixels, path)
        pixels = gray
    values = _values(pixels)
    if len(values) == 1 and values[0] in (0, 1, 255, 65535):
        return pixels > 0
    if len(values) == 2 and values[0] == 0:
        return pixels > 0
    low, high = values[values <= margin], values[values >= full - margin]
    only_noise = len(low) > 0 and len(high) > 0 and len(low) + len(high) == len(values)
    # A JPEG's noise is on both sides. In a lossless file a single value near white may be a class map's "ignore".
    if only_noise and (is_jpeg or len(high) > 1):
        return pixels > full // 2
    raise _ambiguous(path, *_meaning(values.tolist(), full))


def _values(gray: np.ndarray) -> np.ndarray:
    """The sorted values in a (H, W) array: np.unique by a histogram, without sorting the pixels."""
    bins = int(np.iinfo(gray.dtype).max) + 1
    return np.flatnonzero(cv2.calcHist([gray], [0], None, [bins], [0, bins]))


def _meaning(values: list[int], full: int) -> tuple[str, list[int], str]:
    """The likely meaning of a gray mask of several values, its values, and the advice: arguments of `_ambiguous`."""
    everything = "--mask_threshold 0 makes all values above 0 target"
    half = f"--mask_threshold {full // 2} splits them in the middle"
    if values[0] != 0:
        return "soft edges or several classes, none of them 0", values, half
    if values[-1] < full and (full > 255 or values == list(range(len(values)))):
        return "perhaps instance labels, one value per object", values, everything
    if values[-1] < full - _NOISE * (full // 255):
        return "several classes or instances", values, everything
    return "soft edges or several classes", values, f"{half}; {everything}"


def _without_alpha(rgba: np.ndarray, path: Path, check: bool) -> np.ndarray:
    """The channels of an RGBA mask that contain the mask: (H, W, 3) colour, or (H, W) alpha."""
    colour, alpha = rgba[..., :3], rgba[..., 3]
    if (alpha == alpha[0, 0]).all():
        return colour
    if (colour == colour[0, 0]).all():
        return alpha
    if check and ((alpha > 0) != (colour > 0).any(axis=2)).any():
        raise _ambiguous(path, "colour and alpha mark different pixels", np.unique(alpha).tolist(), kind="alpha values")
    return colour


def _colour_target(pixels: np.ndarray, path: Path) -> np.ndarray:
    """(H, W) bool: the only colour besides black."""
    # One number per colour, because np.unique of numbers is much faster than of rows.
    codes = (pixels.astype(np.int64) << np.array([32, 16, 0])).sum(axis=2)
    found = np.unique(codes)
    if len(found) == 2 and found[0] == 0:
        return codes > 0
    colours = [(code >> 32, code >> 16 & 0xFFFF, code & 0xFFFF) for code in found[: _SHOWN + 1].tolist()]
    what = "several colours, perhaps classes" if len(found) > 1 else "one colour that covers everything"
    advice = "--mask_threshold 0 makes every colour except black target" if found[0] == 0 else _THRESHOLD
    raise _ambiguous(path, what, colours, advice, "colours (R, G, B)", len(found))


def _ambiguous(
    path: Path, what: str, found: list, advice: str = _THRESHOLD, kind: str = "values", count: int | None = None
) -> UserError:
    """The error for an ambiguous mask; `found` are its values, `count` their number if `found` is truncated."""
    count = len(found) if count is None else count
    shown = ", ".join(map(str, found[:_SHOWN])) + (f", ... ({count} in all)" if count > _SHOWN else "")
    return UserError(f"{path}: cannot tell target from background in this mask: {what}; {kind}: {shown}. {advice}.")
