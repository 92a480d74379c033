"""DPConv with a learned constant instead of the code g: the control for the effect of image-specific kernels.

    kernel[o] = g[o // (C / D)] * W[o] + V[o]        (C channels, D deep channels; SRS, section III-C)

W and V have the shape, name (`expand`) and initialisation of those in DPConv. g is a parameter of D numbers, the same
for every image, and is initialised like the bias of DPConv's projection. The attention and projection of DPConv, which
compute g from the image, are omitted.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.dpconv import DPConv

NEEDS_ENCODER = False


class StaticDPConv(nn.Module):
    """x (B, C, h, w) to (B, C, h, w). Raises ValueError for channels that DPConv does not support."""

    def __init__(self, channels: int, deep_channels: int) -> None:
        super().__init__()
        dpconv = DPConv(channels, deep_channels)
        self.g = nn.Parameter(dpconv.project.bias.detach().clone())
        self.expand = dpconv.expand

    def forward(self, x: Tensor, deep: Tensor | None = None) -> Tensor:
        numbers = self.expand(self.g[None, :, None, None])  # (1, C * C * 3 * 3, 1, 1)
        channels = x.shape[1]
        return F.conv2d(x, numbers.view(channels, channels, 3, 3), padding=1)


def build(channels: int, deep_channels: int) -> StaticDPConv:
    return StaticDPConv(channels, deep_channels)
