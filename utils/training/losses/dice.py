"""The soft Dice loss of each image: 1 - (2 * sum(p * t) + s) / (sum(p) + sum(t) + s), s = 1e-5.

Source: C. Sudre et al., Generalised Dice overlap as a deep learning loss function, https://arxiv.org/abs/1707.03237,
equation 2, for one class: its denominator has no squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMOOTH = 1e-5


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, 1, H, W) logits and targets in {0, 1} to (B,)."""
    probabilities, targets = torch.sigmoid(logits.flatten(1)), targets.flatten(1)
    overlap = (probabilities * targets).sum(1)
    return 1 - (2 * overlap + SMOOTH) / (probabilities.sum(1) + targets.sum(1) + SMOOTH)
