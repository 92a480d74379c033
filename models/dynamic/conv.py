"""An ordinary 3x3 convolution instead of DPConv: the control for the effect of any additional convolution.

    term = conv(x, W)        W (C, C, 3, 3), without bias, like DPConv

Default initialisation of PyTorch. conv_scaled.py is the same convolution with the initial scale of DPConv.
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
