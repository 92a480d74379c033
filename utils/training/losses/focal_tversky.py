"""The focal Tversky loss of each image, for small targets: a missed pixel costs more than a false positive.

    index = (TP + s) / (TP + 0.7 FN + 0.3 FP + s), with soft counts and s = 1e-5;    loss = (1 - index) ^ 0.75

Source: N. Abraham and N. Khan, A novel focal Tversky loss function with improved Attention U-Net for lesion
segmentation, ISBI 2019, https://arxiv.org/abs/1810.07842: alpha 0.7 for misses, beta 0.3, gamma 4/3.
"""

from __future__ import annotations

import torch
from torch import Tensor

MISSED, FALSE = 0.7, 0.3
EXPONENT = 3 / 4
SMOOTH = 1e-5


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, 1, H, W) logits and targets in {0, 1} to (B,)."""
    probabilities, targets = torch.sigmoid(logits.flatten(1)), targets.flatten(1)
    found = (probabilities * targets).sum(1)
    missed, false = targets.sum(1) - found, probabilities.sum(1) - found
    index = (found + SMOOTH) / (found + MISSED * missed + FALSE * false + SMOOTH)
    return (1 - index).clamp(min=1e-7) ** EXPONENT  # the power's slope at 0 is infinite
