"""The loss of phase 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BCEDiceLoss(nn.Module):
    """0.5 * binary cross-entropy + soft Dice loss, of logits.

    The Dice term is taken on each sample and averaged over the batch:
    1 - (2 * sum(p * t) + s) / (sum(p) + sum(t) + s) with p = sigmoid(logits) and s = 1e-5.
    Paper: SRS, section III-D; the combination is UNeXt's (https://arxiv.org/abs/2203.04967).

    Shape: logits and targets (B, 1, H, W), targets in {0, 1}, to a scalar; with `reduction="none"` to (B,).
    """

    SMOOTH = 1e-5

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits, targets = logits.flatten(1), targets.flatten(1)
        bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        probabilities = torch.sigmoid(logits)
        overlap = (probabilities * targets).sum(1)
        dice = 1 - (2 * overlap + self.SMOOTH) / (probabilities.sum(1) + targets.sum(1) + self.SMOOTH)
        loss = 0.5 * bce + dice
        return loss.mean() if self.reduction == "mean" else loss
