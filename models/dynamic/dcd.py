"""DCD, decomposed dynamic convolution: a static kernel scaled per output channel, plus a fusion of few channels.

    term = s * conv(x, W0) + P F Q^T x
    [s, F] = A2 relu(A1 z),  z = mean of deep over its pixels

Paper: https://arxiv.org/abs/2103.08756, where z is of x itself; W0 (C, C, 3, 3), P and Q (C, L) with
L = C / 2^floor(log2 sqrt(C)), F (L, L) and s (C) of each image; A1 is (C / 16, D), A2 (C + L^2, C / 16), with biases.
The paper does not specify the initialisation. Here it is PyTorch's default, except that the bias of A2 is 1 for s and 0
for F, so that the layer is initially close to conv(x, W0).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.blocks import mean
from models.per_sample import CodeToKernel

REDUCTION = 16


class DCD(CodeToKernel):
    """x (B, C, h, w) and deep (B, D, h', w') to (B, C, h, w)."""

    def __init__(self, channels: int, deep_channels: int) -> None:
        super().__init__()
        self.latent = channels // 2 ** int(math.log2(math.sqrt(channels)))
        hidden = max(channels // REDUCTION, 1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.q = nn.Conv2d(channels, self.latent, 1, bias=False)
        self.p = nn.Conv2d(self.latent, channels, 1, bias=False)
        self.reduce = nn.Linear(deep_channels, hidden)
        self.expand = nn.Linear(hidden, channels + self.latent**2)
        with torch.no_grad():
            self.expand.bias.copy_(torch.arange(channels + self.latent**2) < channels)

    def code(self, deep: Tensor) -> Tensor:
        """The numbers of s, then those of F: (B, D, h', w') to (B, C + L * L)."""
        return self.expand(relu(self.reduce(mean(deep, (2, 3)).flatten(1))))

    def kernels_of(self, code: Tensor) -> Tensor:
        scale, fusion = self._split(code)
        fused = self.p.weight.flatten(1) @ fusion @ self.q.weight.flatten(1)  # (B, C, C)
        kernels = scale[:, :, None, None, None] * self.conv.weight
        return kernels + nn.functional.pad(fused[..., None, None], (1, 1, 1, 1))

    def with_code(self, x: Tensor, code: Tensor) -> Tensor:
        scale, fusion = self._split(code)
        narrow = self.q(x)  # (B, L, h, w)
        fused = (fusion @ narrow.flatten(2)).view_as(narrow)
        return scale[:, :, None, None] * self.conv(x) + self.p(fused)

    def _split(self, code: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.conv.out_channels
        return code[:, :channels], code[:, channels:].unflatten(1, (self.latent, self.latent))


def build(channels: int, deep_channels: int) -> DCD:
    return DCD(channels, deep_channels)
