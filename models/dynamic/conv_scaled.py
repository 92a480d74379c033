"""An ordinary 3x3 convolution that starts as large as DPConv does: the control that tells what the scale alone adds.

    term = conv(x, W)        W (C, C, 3, 3), no bias, uniform in (-1, 1)

DPConv's kernel is g * W + V. By PyTorch's default, W and V are uniform in (-1, 1), since the grouped convolution that
holds them has a fan-in of 1; g starts small beside 1. An ordinary 3x3 convolution starts uniform in +- 1 / (3 sqrt(C)):
24 times smaller at C = 64, 48 times at C = 256.
"""

from __future__ import annotations

from torch import nn

from models.dynamic.conv import PlainConv

NEEDS_ENCODER = False


def build(channels: int, deep_channels: int) -> PlainConv:
    layer = PlainConv(channels)
    nn.init.uniform_(layer.conv.weight, -1, 1)
    return layer
