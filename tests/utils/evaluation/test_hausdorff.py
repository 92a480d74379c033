from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.evaluation.hausdorff import hd95
from utils.evaluation.pixel_metrics import paper_metrics


def pairs(count):
    """Pairs of masks: blobs and noise, one pixel, all pixels, at the edge."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :32]
    for i in range(count):
        pair = []
        for _ in range(2):
            center, radius = rng.uniform(0, 32, 2), rng.uniform(1, 12)
            array = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2
            array |= rng.random(array.shape) < rng.choice([0, 0, 0.02, 0.4])
            array[tuple(rng.integers(24, size=2))] = True
            pair.append(array)
        if i % 10 == 0:
            pair[0] = np.ones_like(pair[0])
        if i % 10 == 1:
            pair[1] = np.arange(pair[1].size).reshape(pair[1].shape) == i
        yield pair


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # MONAI's, about itself
def test_hd95_and_dice_are_monais():
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is in requirements-dev.txt")
    for predicted, target in pairs(200):
        one, other = (torch.from_numpy(array[None, None]) for array in (predicted, target))
        expected = metrics.compute_hausdorff_distance(one, other, include_background=True, percentile=95).item()
        assert hd95(predicted, target) == pytest.approx(expected, rel=1e-5)
        dice = metrics.compute_dice(one, other, include_background=True).item()
        ours = paper_metrics(one[0].float() - 0.5, other[0].float())["dice"]
        assert ours == pytest.approx(dice, abs=2e-5)


def test_hd95_of_squares():
    """Of 20 outline pixels one is 10 away and 19 are on the other: a percentile of 5, half way from 0 to 10."""
    line, longer = np.zeros((2, 3, 40), bool)
    line[1, :20] = True
    longer[1, :20] = True
    assert hd95(line, longer) == 0
    longer[1, 19], longer[1, 29] = False, True
    there = np.sort([0.0] * 19 + [10.0])
    assert hd95(longer, line) == pytest.approx(np.percentile(there, 95)) == pytest.approx(0.5)


def test_only_outlines_count():
    full = np.ones((9, 9), bool)
    hollow = full.copy()
    hollow[3:6, 3:6] = False
    # The rim of the hole is 2 pixels inside the full square's outline, which is the image's edge.
    assert hd95(full, full) == 0
    assert hd95(hollow, full) == 2


@pytest.mark.parametrize(("predicted", "target"), [(0, 0), (0, 1), (1, 0)])
def test_an_empty_mask_has_no_distance(predicted, target):
    assert math.isnan(hd95(np.full((5, 5), bool(predicted)), np.full((5, 5), bool(target))))
