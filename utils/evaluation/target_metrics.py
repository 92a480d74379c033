"""What the infrared field counts in one image: targets found (for Pd) and pixels of false alarms (for Fa).

A target is an 8-connected component of the mask. It is found when a predicted component that no other target has taken
has its centroid less than 3 pixels from the target's. Over all images of a data set

    Pd = targets found / targets           Fa = pixels of predicted components that no target has taken / all pixels

(B. Li et al., Dense Nested Attention Network for Infrared Small Target Detection, IEEE TIP 2023,
https://arxiv.org/abs/2106.00487, section IV-A.) Fa is reported x 1e-6.

Both sides are gone through in scan order, that of a component's first pixel, row by row, and a target takes the first
component that is near enough, as the field's tools do. So each component serves one target: of two fragments near one
target the second is a false alarm, and one blob over two targets finds the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MATCH_DISTANCE = 3.0  # pixels between centroids; at exactly this distance a target is not found


@dataclass(frozen=True)
class Components:
    """The 8-connected components of a mask, n of them, in scan order."""

    areas: np.ndarray  # (n,) int, pixels
    centroids: np.ndarray  # (n, 2) float64, (x, y), pixels


def components(mask: np.ndarray) -> Components:
    """The 8-connected components of a mask (H, W), bool."""
    # This algorithm numbers components in scan order; OpenCV's default one goes by blocks of 2x2 pixels.
    _, _, stats, centroids = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.astype(np.uint8), 8, cv2.CV_32S, cv2.CCL_SAUF
    )
    return Components(stats[1:, cv2.CC_STAT_AREA].astype(np.int64), centroids[1:])  # 0 is the background


def match(targets: Components, predicted: Components) -> dict[int, int]:
    """Which predicted component each target has taken, {target: component} by their numbers; none if not found."""
    free = np.ones(len(predicted.areas), bool)
    taken = {}
    for i, centroid in enumerate(targets.centroids):
        near = np.linalg.norm(predicted.centroids - centroid, axis=1) < MATCH_DISTANCE
        if (near & free).any():
            taken[i] = int((near & free).argmax())
            free[taken[i]] = False
    return taken


def count_targets(predicted: np.ndarray, target: np.ndarray) -> dict[str, int]:
    """ "targets", "found" and "false_alarm_pixels" of one image, from its prediction and mask, both (H, W) bool."""
    targets, found = components(target), components(predicted)
    taken = match(targets, found)
    false_alarms = found.areas.sum() - found.areas[list(taken.values())].sum()
    return {"targets": len(targets.areas), "found": len(taken), "false_alarm_pixels": int(false_alarms)}
