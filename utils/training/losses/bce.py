"""Binary cross-entropy, the mean over the pixels of each image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, 1, H, W) logits and targets in {0, 1} to (B,)."""
    return F.binary_cross_entropy_with_logits(logits.flatten(1), targets.flatten(1), reduction="none").mean(1)
