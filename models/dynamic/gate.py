"""Squeeze-and-excitation of x by the encoder's deep feature: a control without an image-specific kernel.

    s = sigmoid(W2 relu(W1 z)),  z = mean of deep over its pixels        term = s * x

Paper: https://arxiv.org/abs/1709.01507, section 3, where z is of x itself. W1 is (D / 16, D) and W2 (C, D / 16), with
at least 8 instead of D / 16, and no biases, as in equation 3. Default initialisation of PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.blocks import mean

REDUCTION = 16  # the paper's


class Gate(nn.Module):
    """x (B, C, h, w) and deep (B, D, h', w') to (B, C, h, w)."""

    def __init__(self, channels: int, deep_channels: int) -> None:
        super().__init__()
        hidden = max(deep_channels // REDUCTION, 8)
        self.reduce = nn.Linear(deep_channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, channels, bias=False)

    def code(self, deep: Tensor) -> Tensor:
        """The gate s of each channel: (B, D, h', w') to (B, C), in (0, 1)."""
        return torch.sigmoid(self.expand(relu(self.reduce(mean(deep, (2, 3)).flatten(1)))))

    def with_code(self, x: Tensor, code: Tensor) -> Tensor:
        return code[:, :, None, None] * x

    def forward(self, x: Tensor, deep: Tensor) -> Tensor:
        return self.with_code(x, self.code(deep))


def build(channels: int, deep_channels: int) -> Gate:
    return Gate(channels, deep_channels)
