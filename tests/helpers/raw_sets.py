"""Small raw data sets for the tests of the converters."""

from __future__ import annotations

import cv2
import numpy as np


def picture(number: int, height: int = 20, width: int = 30) -> np.ndarray:
    """(H, W, 3): no two numbers alike."""
    return np.full((height, width, 3), number, np.uint8)


def target(*rows: int, height: int = 20, width: int = 30, value: int = 255) -> np.ndarray:
    """(H, W): these rows are target."""
    mask = np.zeros((height, width), np.uint8)
    mask[list(rows)] = value
    return mask


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def make_pairs(source, count=10, images="images", masks="masks", mask_name="{}", suffix=".png"):
    """source/images/a1.png ... and their masks; the mask of a{i} is row i."""
    for i in range(1, count + 1):
        write(source / images / f"a{i}{suffix}", picture(i))
        write(source / masks / f"{mask_name.format(f'a{i}')}.png", target(i))
    return source
