"""Figures at every threshold: precision-recall and ROC over all pixels of a data set, mean IoU and F1 of its images.

Instead of storing scores, each logit is rounded to half precision (11 significant bits), and the target and background
pixels of each of the 65536 values are counted. Areas and curves over all pixels are exact for the rounded logits, and
need 1 MB for a data set of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from utils.evaluation.pixel_metrics import figures
from utils.evaluation.thresholds import best_threshold, logit

_CODES = 1 << 16
SCORES = (2, _CODES)  # shape of the counts: background and target, by score
_ZERO = _CODES // 2  # the code of a logit of 0
_INFINITY = 0x7C00  # half precision's bits of infinity


def _thresholds() -> np.ndarray:
    """0 and 1, every hundredth in between, and finer steps towards both ends, where most scores are."""
    low = [digit * 10.0**-k for k in range(8, 2, -1) for digit in (1, 2, 5)]
    return np.array([0.0, *low, *(i / 100 for i in range(1, 100)), *(1 - t for t in reversed(low)), 1.0])


THRESHOLDS = _thresholds()  # of the sigmoid; pixels above it are predicted as target


def _codes(logits: np.ndarray) -> np.ndarray:
    """The half-precision values of logits as integers in the same order, 0 .. 65535."""
    with np.errstate(over="ignore"):  # from 65520 on they are infinite
        bits = logits.astype(np.float16).view(np.int16).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFF), bits) + _ZERO  # sign and magnitude; both zeros are one code


def _first_codes() -> np.ndarray:
    """For each threshold, the lowest code above it; for 0 the lowest of all, so that it predicts every pixel."""
    logits = [logit(t) for t in THRESHOLDS[1:]]
    values = np.arange(_INFINITY + 1, dtype=np.uint16).view(np.float16).astype(np.float64)  # 0 to infinity
    both = np.concatenate([-values[:0:-1], values])
    return np.array([0, *(np.searchsorted(both, logits, side="right") + _ZERO - _INFINITY)])


_FIRST_CODES = _first_codes()


@dataclass(frozen=True)
class Sweep:
    """A data set's figures at each of T thresholds, rising, each (T,) float64; and the areas under its curves.

    Attributes:
        thresholds: of the sigmoid, 0 and 1 among them.
        precision, recall, fpr: over all pixels. Precision is 1 where nothing is predicted, as scikit-learn's.
        iou, f1: the paper's, of each image, then averaged.
        average_precision, roc_auc: over all pixels, from the half-precision logits rather than these T thresholds, by
            scikit-learn, the former without interpolation. NaN, like recall or fpr, if only one class occurs.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    fpr: np.ndarray
    iou: np.ndarray
    f1: np.ndarray
    average_precision: float
    roc_auc: float

    @property
    def tpr(self) -> np.ndarray:
        """Recall, under its name in a ROC curve."""
        return self.recall

    def best(self) -> int:
        """The index of the threshold with the highest mean IoU."""
        return best_threshold(self.thresholds, self.iou)


def count_scores(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The number of pixels of one image by score: (2, 65536) int64, background and target, by code.

    Args:
        logits: of one image, none of them NaN.
        mask: of the same shape, bool.
    """
    codes = _codes(logits.ravel()) + _CODES * mask.ravel()
    return np.bincount(codes, minlength=2 * _CODES).reshape(SCORES)


def above_thresholds(counts: np.ndarray) -> np.ndarray:
    """The false and the true positives at each threshold, (..., 2, T), from the counts by code, (..., 2, 65536)."""
    # Summed over each interval between two thresholds, then cumulatively from the highest interval down.
    stretches = np.add.reduceat(counts, _FIRST_CODES, axis=-1)
    return stretches[..., ::-1].cumsum(-1)[..., ::-1]


def sweep(counts: np.ndarray, per_image: np.ndarray) -> Sweep:
    """The figures at all thresholds.

    Args:
        counts: (2, 65536), `count_scores` added up over all images.
        per_image: (N, 2, T), `above_thresholds` of each image; its first threshold, 0, holds the image's pixels.
    """
    fp, tp = above_thresholds(counts).astype(np.float64)
    with np.errstate(invalid="ignore"):
        recall, fpr = tp / tp[0], fp / fp[0]
        precision = np.where(tp + fp > 0, tp / (tp + fp), 1.0)
    false, true = (torch.from_numpy(np.ascontiguousarray(per_image[:, i])) for i in (0, 1))
    of_images = figures({"TP": true, "FP": false, "FN": true[:, :1] - true, "TN": false[:, :1] - false})
    average_precision, roc_auc = _areas(counts)
    return Sweep(
        thresholds=THRESHOLDS,
        precision=precision,
        recall=recall,
        fpr=fpr,
        iou=of_images["iou"].mean(0).numpy(),
        f1=of_images["F1"].mean(0).numpy(),
        average_precision=average_precision,
        roc_auc=roc_auc,
    )


def _areas(counts: np.ndarray) -> tuple[float, float]:
    """Average precision and the area under the ROC curve."""
    if not counts.any(axis=1).all():
        return math.nan, math.nan
    labels, codes = counts.nonzero()
    weights = counts[labels, codes]
    return (
        float(average_precision_score(labels, codes, sample_weight=weights)),
        float(roc_auc_score(labels, codes, sample_weight=weights)),
    )
