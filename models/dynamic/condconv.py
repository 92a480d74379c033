"""CondConv: the kernel is a sum of experts, weighted by a sigmoid of each image's deep feature.

    term = conv(x, a1 W1 + ... + aE WE),  a = sigmoid(R z + b),  z = mean of deep over its pixels

Paper: https://arxiv.org/abs/1904.04971, where z is of x itself; E = 8 experts (C, C, 3, 3), no bias. The
weights a are not normalised. Each expert is initialised as an ordinary convolution, R and b as a linear layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks import mean
from models.per_sample import CodeToKernel


class CondConv(CodeToKernel):
    """x (B, C, h, w) and deep (B, D, h', w') to (B, C, h, w)."""

    def __init__(self, channels: int, deep_channels: int, experts: int = 8) -> None:
        super().__init__()
        self.routing = nn.Linear(deep_channels, experts)
        kernels = [nn.Conv2d(channels, channels, 3, bias=False).weight.detach().flatten() for _ in range(experts)]
        self.experts = nn.Parameter(torch.stack(kernels))  # (E, C * C * 3 * 3): no memory format reorders it
        self.shape = (channels, channels, 3, 3)

    def code(self, deep: Tensor) -> Tensor:
        """The weight of each expert: (B, D, h', w') to (B, E), in (0, 1)."""
        return torch.sigmoid(self.routing(mean(deep, (2, 3)).flatten(1)))

    def kernels_of(self, code: Tensor) -> Tensor:
        return (code @ self.experts).unflatten(1, self.shape)


def build(channels: int, deep_channels: int) -> CondConv:
    return CondConv(channels, deep_channels)
