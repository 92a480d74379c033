"""An ordinary 3x3 convolution with the initial scale of DPConv: the control for the effect of the scale alone.

    term = conv(x, W)        W (C, C, 3, 3), no bias, uniform in (-1, 1)

The kernel of DPConv is g * W + V. By PyTorch's default, W and V are uniform in (-1, 1), because their grouped
convolution has a fan-in of 1; g is initially small compared with 1. An ordinary 3x3 convolution is initially uniform in
+- 1 / (3 sqrt(C)): 24 times smaller for C = 64, 48 times for C = 256.
"""

from __future__ import annotations

from torch import nn

from models.dynamic.conv import PlainConv

NEEDS_ENCODER = False


def build(channels: int, deep_channels: int) -> PlainConv:
    layer = PlainConv(channels)
    nn.init.uniform_(layer.conv.weight, -1, 1)
    return layer
