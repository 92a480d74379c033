"""An ordinary 3x3 convolution in DPConv's place: the control that tells what any extra convolution adds.

    term = conv(x, W)        W (C, C, 3, 3), no bias, as DPConv has none

Initialised as PyTorch does by default. conv_scaled.py is the same convolution, started as large as DPConv starts.
"""

from __future__ import annotations

from torch import Tensor, nn

NEEDS_ENCODER = False


class PlainConv(nn.Module):
    """x (B, C, h, w) to (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, deep: Tensor | None = None) -> Tensor:
        return self.conv(x)


def build(channels: int, deep_channels: int) -> PlainConv:
    return PlainConv(channels)
