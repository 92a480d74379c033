"""The counts of infrared small target detection in one image: targets found (for Pd) and false-alarm pixels (for Fa).

A target is an 8-connected component of the mask. It is found if the centroid of an unmatched predicted component is
less than 3 pixels from its centroid. Over all images of a data set

    Pd = targets found / targets           Fa = pixels of unmatched predicted components / all pixels

(B. Li et al., Dense Nested Attention Network for Infrared Small Target Detection, IEEE TIP 2023,
https://arxiv.org/abs/2106.00487, section IV-A.) Fa is reported x 1e-6.

Targets and components are processed in scan order (of the first pixel, row by row), and each target is matched with the
first component that is near enough, as in the field's tools. A component is matched with one target only: of two
fragments near one target the second is a false alarm, and one blob over two targets finds only the first of them.
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
    # This algorithm numbers components in scan order; OpenCV's default one uses blocks of 2x2 pixels.
    _, _, stats, centroids = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.astype(np.uint8), 8, cv2.CV_32S, cv2.CCL_SAUF
    )
    return Components(stats[1:, cv2.CC_STAT_AREA].astype(np.int64), centroids[1:])  # 0 is the background


def match(targets: Components, predicted: Components) -> dict[int, int]:
    """The predicted component matched with each target, {target: component} by index, without unmatched targets."""
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
