"""Resizing of images and masks to the network's size, and of logits back to the image's size.

Pixel u of a resized map covers the positions u * s to (u + 1) * s of its source, in source pixels, with s = source side
/ resized side. Its centre is at (u + 0.5) * s, where bilinear resizing reads the image. OpenCV's INTER_NEAREST reads
the source pixel floor(u * s) of the mask instead, which shifts the resized mask by half a resized pixel to the right
and down. A network trained on such masks predicts with this shift, and `restore` removes it.
docs/explanation/paper_vs_code.md shows the effect.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Shift = tuple[float, float]  # (down, right), network pixels: the offset of the masks against their images


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H, W, 3), uint8 or float32, at size (height, width): bilinear."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """A mask (H, W) uint8 in {0, 1} at size (height, width), in {0, 1}; unchanged if it has that size.

    Args:
        interpolation: "nearest" is OpenCV's INTER_NEAREST, as in the released code. "exact" is aligned with the image:
            a pixel is target if more than half of its area is; a target (8-connected) that is too small for that keeps
            the pixel of which it covers most, so that none vanishes.
    """
    if mask.shape == size:
        return mask
    if interpolation == "nearest":
        return _nearest(mask, size)
    share = _share(mask, size)
    resized = (share > 0.5).astype(np.uint8)
    for rows, columns in _vanished(mask, resized):
        best = share[rows, columns].argmax()
        resized[rows[best], columns[best]] = 1
    return resized


def too_small_targets(mask: np.ndarray, size: tuple[int, int], interpolation: str) -> int:
    """The number of targets (8-connected) of a mask (H, W) that are too small for size (height, width): "nearest" loses
    them, "exact" keeps one pixel of each."""
    if all(new >= 2 * old for old, new in zip(mask.shape, size, strict=True)):
        return 0  # each pixel of the mask is more than half of the resized pixel nearest to it
    resized = _nearest(mask, size) if interpolation == "nearest" else (_share(mask, size) > 0.5).astype(np.uint8)
    return len(_vanished(mask, resized))


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


def _share(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of each pixel's area that is target, float32 in 0..1."""
    share = mask.astype(np.float32)
    # OpenCV's INTER_AREA averages along a side that is reduced, but only if none is enlarged: so in two steps.
    reduced = min(mask.shape[0], size[0]), min(mask.shape[1], size[1])
    for step, interpolation in ((reduced, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if share.shape != step:
            share = cv2.resize(share, step[::-1], interpolation=interpolation)
    return share


def _vanished(mask: np.ndarray, resized: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The targets of the mask without any pixel inside a target pixel of `resized`, each as the rows and columns of its
    pixels in `resized`."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    # Checking only the centre of each resized pixel finds nearly all targets, in a fraction of the time.
    centres = (_corresponding(np.arange(new), new, old) for old, new in zip(mask.shape, resized.shape, strict=True))
    at_centres = labels[np.ix_(*centres)]
    seen = np.zeros(count, bool)
    seen[at_centres[resized > 0]] = True
    vanished = []
    for label in np.flatnonzero(~seen[1:]) + 1:
        rows, columns = (
            _corresponding(index, old, new)
            for index, old, new in zip(np.nonzero(labels == label), mask.shape, resized.shape, strict=True)
        )
        if not resized[rows, columns].any():
            vanished.append((rows, columns))
    return vanished


def _corresponding(index: np.ndarray, side: int, other: int) -> np.ndarray:
    """The pixels of a side of `other` pixels that contain the centres of the pixels `index` of `side` pixels."""
    return (2 * index + 1) * other // (2 * side)


def mask_shift(source: tuple[int, int], size: tuple[int, int], interpolation: str) -> Shift:
    """The offset of a mask of size `source` (height, width) against its image after resizing to `size`: (down, right),
    in pixels of `size`, mean over the pixels.

    0 for "exact". For "nearest", which reads floor(u * s): 0.5 - 1 / (2 p) with s = p / q in lowest terms. That is
    nearly 0.5 for most sides, 0.25 for a source of twice the size, 0 for one of the same or half the size.
    """
    if interpolation == "exact":
        return 0.0, 0.0
    down, right = (0.5 - math.gcd(old, new) / (2 * old) for old, new in zip(source, size, strict=True))
    return down, right


def restore(logits: Tensor, size: tuple[int, int], shift: Shift | None = (0.0, 0.0)) -> Tensor:
    """Logits (B, 1, h, w) resized bilinearly to the image's size (height, width), without the shift of the masks that
    the network has learned.

    Args:
        shift: (down, right), in pixels of `logits`; None if it is unknown, for the shift that "nearest" gives masks of
            this size.
    """
    network_size = logits.shape[-2], logits.shape[-1]
    if shift is None:
        shift = mask_shift(size, network_size, "nearest")
    if not any(shift):
        if network_size == tuple(size):
            return logits
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    # The shifted centres of the image's pixels in the coordinates of `grid_sample`: -1 and 1 are the outer edges.
    y, x = (
        (2 * torch.arange(side, device=logits.device) + 1) / side - 1 + 2 * moved / network
        for side, moved, network in zip(size, shift, network_size, strict=True)
    )
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).expand(len(logits), -1, -1, -1)
    # The edge is repeated beyond the last pixel, as F.interpolate does.
    return F.grid_sample(logits, grid.to(logits.dtype), mode="bilinear", padding_mode="border", align_corners=False)
