"""No layer instead of DPConv: the segmenter alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NEEDS_ENCODER = False


class NoLayer(nn.Module):
    """Adds nothing to x: (B, C, h, w) zeros."""

    def forward(self, x: Tensor, deep: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


def build(channels: int, deep_channels: int) -> NoLayer:
    return NoLayer()
