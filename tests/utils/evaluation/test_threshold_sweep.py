"""The sweep over all thresholds, against scikit-learn on the scores themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from utils.evaluation import pixel_metrics as metrics
from utils.evaluation.threshold_sweep import THRESHOLDS, Sweep, above_thresholds, count_scores, sweep


def images(count=6, size=32, scale=4.0, seed=0):
    """Logits and masks that overlap, (N, size, size) float32 and bool."""
    rng = np.random.default_rng(seed)
    masks = rng.random((count, size, size)) < rng.uniform(0.02, 0.6, (count, 1, 1))
    logits = rng.normal(size=masks.shape) * scale + scale * (2 * masks - 1)
    return logits.astype(np.float32), masks


def swept(logits, masks) -> Sweep:
    counts = [count_scores(*image) for image in zip(logits, masks, strict=True)]
    return sweep(sum(counts), np.stack([above_thresholds(one) for one in counts]))


@pytest.mark.parametrize("scale", [0.05, 4.0, 60.0, 5e4])
def test_areas_are_scikit_learns(scale):
    """To the last digit of the half-precision logits, beyond 65504 infinite, and close to those of the full ones."""
    logits, masks = images(scale=scale)
    ours, truth = swept(logits, masks), masks.ravel()
    with np.errstate(over="ignore"):
        half = logits.astype(np.float16).astype(np.float32).ravel().clip(-1e5, 1e5)
    for scores, tolerance in ((half, 1e-12), (logits.ravel(), 1e-3)):
        if scale == 5e4 and tolerance > 1e-12:
            continue  # many are infinite in half precision
        assert ours.average_precision == pytest.approx(reference.average_precision_score(truth, scores), abs=tolerance)
        assert ours.roc_auc == pytest.approx(reference.roc_auc_score(truth, scores), abs=tolerance)


def test_every_threshold_is_scikit_learns():
    logits, masks = images(scale=3.0)
    ours = swept(logits, masks)
    # Compared as logits: close to 1 the sigmoid is too coarse in any precision.
    with np.errstate(divide="ignore"):
        edges = np.log(THRESHOLDS) - np.log1p(-THRESHOLDS)
    half = logits.astype(np.float16).astype(np.float64)
    for i, edge in enumerate(edges):
        predicted = half > edge
        tn, fp, _, _ = reference.confusion_matrix(masks.ravel(), predicted.ravel()).ravel()
        recall = reference.recall_score(masks.ravel(), predicted.ravel())
        assert ours.recall[i] == ours.tpr[i] == pytest.approx(recall, abs=1e-12)
        assert ours.precision[i] == pytest.approx(
            reference.precision_score(masks.ravel(), predicted.ravel(), zero_division=1), abs=1e-12
        )
        assert ours.fpr[i] == pytest.approx(fp / (fp + tn), abs=1e-12)
        pairs = list(zip(masks, predicted, strict=True))
        jaccard = [reference.jaccard_score(mask.ravel(), one.ravel(), zero_division=0) for mask, one in pairs]
        assert ours.iou[i] == pytest.approx(np.mean(jaccard), abs=1e-5)
        f1 = [reference.f1_score(mask.ravel(), one.ravel(), zero_division=0) for mask, one in pairs]
        assert ours.f1[i] == pytest.approx(np.mean(f1), abs=1e-5)


def test_at_one_half_the_sweep_is_the_table():
    logits, masks = images()
    ours = swept(logits, masks)
    at = list(THRESHOLDS).index(0.5)
    one_by_one = metrics.figures(metrics.confusion(torch.from_numpy(logits), torch.from_numpy(masks).float()))
    assert ours.iou[at] == pytest.approx(one_by_one["iou"].mean().item(), rel=1e-12)
    assert ours.f1[at] == pytest.approx(one_by_one["F1"].mean().item(), rel=1e-12)


def test_the_ends_predict_everything_and_nothing():
    ours = swept(*images(scale=1e6))
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS)) and (THRESHOLDS[0], THRESHOLDS[-1]) == (0, 1)
    assert (ours.recall[0], ours.fpr[0], ours.recall[-1], ours.fpr[-1], ours.precision[-1]) == (1, 1, 0, 0, 1)


def test_the_best_threshold_has_the_highest_mean_iou():
    masks = np.zeros((1, 4, 4), bool)
    masks[0, :2] = True
    ours = swept(np.where(masks, -1.0, -3.0).astype(np.float32), masks)  # sigmoid 0.27 and 0.047
    assert ours.thresholds[ours.best()] == 0.26 and ours.iou[ours.best()] == 1


@pytest.mark.parametrize("target", [False, True])
def test_one_class_alone_has_no_areas(target):
    logits, masks = images(count=1)
    ours = swept(logits, np.full_like(masks, target))
    assert np.isnan([ours.average_precision, ours.roc_auc]).all()
    assert np.isnan(ours.fpr if target else ours.recall).all()


def test_a_target_that_is_nowhere_does_not_change_the_scores_of_others():
    logits, masks = images()
    masks[3] = False
    truth = masks.ravel()
    half = logits.astype(np.float16).astype(np.float32).ravel()
    assert swept(logits, masks).roc_auc == pytest.approx(reference.roc_auc_score(truth, half), abs=1e-12)
