"""The paper's loss: 0.5 * binary cross-entropy + soft Dice loss, of each image.

Paper: SRS, section III-D; the combination is UNeXt's (https://arxiv.org/abs/2203.04967).
"""

from __future__ import annotations

from torch import Tensor, nn

from utils.training.losses import bce, dice


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, 1, H, W) logits and targets in {0, 1} to (B,)."""
    return 0.5 * bce.loss(logits, targets) + dice.loss(logits, targets)


class BCEDiceLoss(nn.Module):
    """The loss as a module, for use in other programs.

    Shape: logits and targets (B, 1, H, W), targets in {0, 1}, to a scalar; with `reduction="none"` to (B,).
    """

    SMOOTH = dice.SMOOTH

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = loss(logits, targets)
        return losses.mean() if self.reduction == "mean" else losses
