"""Dynamic convolution (DY-Conv): kernels and biases mixed by a softmax attention over each image's deep feature.

    term = conv(x, p1 W1 + ... + pK WK) + p1 b1 + ... + pK bK
    p = softmax((A2 relu(A1 z) + c) / T),  z = mean of deep over its pixels

Paper: https://arxiv.org/abs/1912.03458, section 3, where z is of x itself; K = 4 kernels (C, C, 3, 3), each with its
bias (C); A1 is (D / 4, D), A2 (K, D / 4). T = 30 is constant: the paper's value for a flat attention early in training.
The paper lowers T to 1 during the first 10 epochs; this schedule is not part of the layer. Kernels and biases are
initialised like those of an ordinary convolution, A1 and A2 by PyTorch's default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.blocks import mean
from models.per_sample import CodeToKernel, convolve_per_sample

TEMPERATURE = 30


class DYConv(CodeToKernel):
    """x (B, C, h, w) and deep (B, D, h', w') to (B, C, h, w)."""

    def __init__(self, channels: int, deep_channels: int, kernels: int = 4) -> None:
        super().__init__()
        hidden = max(deep_channels // 4, 1)
        self.reduce = nn.Linear(deep_channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, kernels)
        convs = [nn.Conv2d(channels, channels, 3) for _ in range(kernels)]
        weights = [conv.weight.detach().flatten() for conv in convs]
        self.weights = nn.Parameter(torch.stack(weights))  # (K, C * C * 3 * 3): no memory format reorders it
        self.shape = (channels, channels, 3, 3)
        self.biases = nn.Parameter(torch.stack([conv.bias.detach() for conv in convs]))  # (K, C)

    def code(self, deep: Tensor) -> Tensor:
        """The share p of each kernel: (B, D, h', w') to (B, K), of sum 1."""
        z = mean(deep, (2, 3)).flatten(1)
        return (self.expand(relu(self.reduce(z))) / TEMPERATURE).softmax(1)

    def with_code(self, x: Tensor, code: Tensor) -> Tensor:
        return convolve_per_sample(x, self.kernels_of(code)) + (code @ self.biases)[:, :, None, None]

    def kernels_of(self, code: Tensor) -> Tensor:
        return (code @ self.weights).unflatten(1, self.shape)


def build(channels: int, deep_channels: int) -> DYConv:
    return DYConv(channels, deep_channels)
