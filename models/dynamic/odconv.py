"""ODConv: kernels mixed with attention along all four dimensions of a kernel, from each image's deep feature.

    term = conv(x, K),  K = a_f * a_c * a_s * (w1 W1 + ... + wn Wn)
    h = relu(F z),  z = mean of deep over its pixels
    a_s = sigmoid(S h) (3 x 3),  a_c = sigmoid(I h) (C in),  a_f = sigmoid(O h) (C out),  w = softmax(M h) (n)

Paper: https://arxiv.org/abs/2209.07947, section 3, where z is of x itself; n = 4 kernels (C, C, 3, 3), no
bias; h has D / 16 numbers, at least 16. As in the paper, F and the four heads are plain linear layers, without batch
norm on the single pixel of z, which would have no variance at batch size 1. The softmax has temperature 1; the paper
lowers it to 1 during the first epochs, but this schedule is not part of the layer. Each kernel is initialised like an
ordinary convolution, and the linear layers by PyTorch's default, so that the three sigmoids are initially near 1 / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.blocks import mean
from models.per_sample import CodeToKernel

REDUCTION = 16


class ODConv(CodeToKernel):
    """x (B, C, h, w) and deep (B, D, h', w') to (B, C, h, w)."""

    def __init__(self, channels: int, deep_channels: int, kernels: int = 4) -> None:
        super().__init__()
        hidden = max(deep_channels // REDUCTION, 16)
        self.squeeze = nn.Linear(deep_channels, hidden)
        self.spatial = nn.Linear(hidden, 9)
        self.input = nn.Linear(hidden, channels)
        self.output = nn.Linear(hidden, channels)
        self.mixture = nn.Linear(hidden, kernels)
        weights = [nn.Conv2d(channels, channels, 3, bias=False).weight.detach().flatten() for _ in range(kernels)]
        self.weights = nn.Parameter(torch.stack(weights))  # (n, C * C * 3 * 3): no memory format reorders it
        self.shape = (channels, channels, 3, 3)

    def code(self, deep: Tensor) -> Tensor:
        """The attentions [a_s, a_c, a_f, w]: (B, D, h', w') to (B, 9 + C + C + n), in (0, 1)."""
        h = relu(self.squeeze(mean(deep, (2, 3)).flatten(1)))
        gates = [torch.sigmoid(head(h)) for head in (self.spatial, self.input, self.output)]
        return torch.cat([*gates, self.mixture(h).softmax(1).to(h.dtype)], dim=1)

    def kernels_of(self, code: Tensor) -> Tensor:
        kernels, channels = len(self.weights), self.shape[0]
        spatial, input, output, mixture = code.split([9, channels, channels, kernels], dim=1)
        mixed = (mixture @ self.weights).unflatten(1, self.shape)  # (B, C, C, 3, 3)
        filters = output[:, :, None, None, None] * input[:, None, :, None, None]
        return filters * spatial.unflatten(1, (3, 3))[:, None, None] * mixed


def build(channels: int, deep_channels: int) -> ODConv:
    return ODConv(channels, deep_channels)
