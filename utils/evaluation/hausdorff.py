"""HD95, the distance between two outlines as used in medical segmentation."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy.spatial import cKDTree

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def hd95(predicted: np.ndarray, target: np.ndarray) -> float:
    """The 95th percentile of the Hausdorff distance of two masks (H, W) bool, in pixels; NaN if one of them is empty.

    The outline of a mask is its pixels with a 4-neighbour outside the mask or outside the image. From each pixel of one
    outline the Euclidean distance to the nearest of the other is taken, and the 95th percentile of these (interpolated
    linearly); likewise in the other direction; the result is the larger of the two. This is the definition of MONAI and
    Metrics Reloaded (L. Maier-Hein et al., Nature Methods 2024, https://arxiv.org/abs/2206.01653); medpy takes one
    percentile over both directions.
    """
    if not predicted.any() or not target.any():
        return math.nan
    # A search tree takes a tenth of the time of a distance transform at 256x256, because outlines have few pixels.
    ours, theirs = _outline(predicted), _outline(target)
    there, back = cKDTree(theirs).query(ours)[0], cKDTree(ours).query(theirs)[0]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _outline(mask: np.ndarray) -> np.ndarray:
    """(n, 2): the pixels of the outline."""
    mask = mask.astype(np.uint8)
    inside = cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.argwhere(mask > inside)
