"""Thresholds of the probability: their logits, the best one, and how they are printed."""

from __future__ import annotations

import math

import numpy as np


def logit(threshold: float) -> float:
    """The logit of a threshold in 0..1; higher logits are target. -inf and inf for 0 and 1.

    Logits tell more than probabilities, which are 1 in float32 from a logit of 17 on.
    """
    if threshold in (0, 1):
        return math.inf if threshold else -math.inf
    return math.log(threshold / (1 - threshold))


def as_text(threshold: float) -> str:
    """The threshold with all digits of those of the sweep, up to 0.99999999."""
    return f"{threshold:.10g}"


def best_threshold(thresholds: np.ndarray, figure: np.ndarray) -> int:
    """The index of the threshold with the highest figure, NaN aside; of several, of the one nearest to 0.5."""
    highest = np.flatnonzero(figure == np.nanmax(figure))
    return int(highest[np.abs(thresholds[highest] - 0.5).argmin()])
