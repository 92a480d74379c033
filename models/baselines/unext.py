"""UNeXt: a small U-Net with convolutions in the upper and shifted MLPs on tokens in the lower stages.

    image -- conv 16 -- conv 32 -- conv 128 -- MLP 160 -- MLP 256       each at half the size of the one before
    logits -- conv 16 -- conv 16 -- conv 32 -- MLP 128 -- MLP 160       each at twice the size; the encoder's is added

Paper: https://arxiv.org/abs/2203.04967. 1,471,921 parameters, 0.562 GMACs at 256x256. The network of the paper, with
the widths of the published figures (16, 32, 128, 160, 256). Details that the paper does not specify: the shifts are -2
to 2 pixels, with zero padding, and the input of each MLP block is normalised too. Default initialisation of PyTorch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.any_size import AnySize

WIDTHS = (16, 32, 128, 160, 256)
SHIFTS = (-2, -1, 0, 1, 2)  # each applied to a fifth of the channels


def shift(x: Tensor, dim: int) -> Tensor:
    """Shifts each fifth of the channels along `dim` by another number of pixels, with zero padding. (B, C, H, W)."""
    size, most = x.shape[dim], max(SHIFTS)
    padded = F.pad(x, (most, most, 0, 0) if dim == 3 else (0, 0, most, most))
    parts = padded.chunk(len(SHIFTS), dim=1)
    return torch.cat([part.narrow(dim, most - by, size) for part, by in zip(parts, SHIFTS, strict=True)], dim=1)


class OnChannels(nn.Module):
    """Applies a module for tokens (..., C) to a map: (B, C, H, W) to (B, C', H, W)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ShiftedMLP(nn.Module):
    """The paper's tokenized MLP block: (B, C, H, W) to (B, C, H, W).

    A linear layer on the map shifted along its width, a depthwise 3x3 convolution, GELU, a linear layer on the result
    shifted along its height, a shortcut around all of them, and layer norm.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in = OnChannels(nn.LayerNorm(channels))
        self.across_width = OnChannels(nn.Linear(channels, channels))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.across_height = OnChannels(nn.Linear(channels, channels))
        self.norm_out = OnChannels(nn.LayerNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.across_width(shift(self.norm_in(x), dim=3))
        y = F.gelu(self.depthwise(y))
        return self.norm_out(x + self.across_height(shift(y, dim=2)))


def convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU: (B, in, H, W) to (B, out, H, W)."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def embedding(in_channels: int, out_channels: int) -> nn.Sequential:
    """Tokens of overlapping 3x3 patches: (B, in, H, W) to (B, out, H / 2, W / 2)."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    return nn.Sequential(conv, OnChannels(nn.LayerNorm(out_channels)))


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class UNeXt(nn.Module):
    """(B, 3, H, W), H and W multiples of 32, to (B, 1, H, W) logits."""

    def __init__(self) -> None:
        super().__init__()
        top, second, third, fourth, deepest = WIDTHS
        self.down = nn.ModuleList([convolution(3, top), convolution(top, second), convolution(second, third)])
        self.tokens = nn.ModuleList(
            [
                nn.Sequential(embedding(third, fourth), ShiftedMLP(fourth)),
                nn.Sequential(embedding(fourth, deepest), ShiftedMLP(deepest)),
            ]
        )
        widths = [deepest, fourth, third, second, top]
        self.up = nn.ModuleList(convolution(*pair) for pair in pairwise(widths))
        self.up_tokens = nn.ModuleList([ShiftedMLP(fourth), ShiftedMLP(third)])
        self.last = nn.Conv2d(top, top, 3, padding=1)
        self.head = nn.Conv2d(top, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        # In float32 even under autocast, for the reason given in models.nested.NestedEncoder.
        with torch.autocast(image.device.type, enabled=False):
            x = F.max_pool2d(self.down[0](image), 2)
        skips = [x]
        for block in self.down[1:]:
            x = F.max_pool2d(block(x), 2)
            skips.append(x)
        for block in self.tokens:
            x = block(x)
            skips.append(x)
        skips.pop()  # the deepest map is x itself
        for i, block in enumerate(self.up):
            x = double(block(x)) + skips.pop()
            if i < len(self.up_tokens):
                x = self.up_tokens[i](x)
        return self.head(double(F.relu(self.last(x))))


def build() -> AnySize:
    return AnySize(UNeXt(), multiple=32)
