"""The blocks of the nested U-Net (SRS paper, section III, arXiv 2312.01741).

Every block maps (B, C, H, W) to (B, C, H, W), unless its docstring says otherwise. On CPUs, `models/fast` replaces a
block by its faster twin if its source, settings and widths are those of this file: an edited block runs as edited.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


class ChannelAttention(nn.Module):
    """The channel attention of CBAM: channel weights from the global average and the global maximum.

    Both pooled vectors go through one shared bottleneck (C to C / 8 to C); the sigmoid of their sum is the weight.
    Paper: https://arxiv.org/abs/1807.06521, section 3.1. Returns the weights, (B, C, 1, 1) in (0, 1).
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.expand = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        average, maximum = mean(x, (2, 3)), spatial_maximum(x)
        return torch.sigmoid(self.expand(relu(self.reduce(average))) + self.expand(relu(self.reduce(maximum))))


class SpatialAttention(nn.Module):
    """The spatial attention of CBAM: pixel weights from the mean and the maximum over the channels.

    Paper: https://arxiv.org/abs/1807.06521, section 3.2. Returns the weights, (B, 1, H, W) in (0, 1).
    """

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        average, maximum = mean(x, 1), x.max(1, keepdim=True).values
        return torch.sigmoid(self.conv(torch.cat([average, maximum], dim=1)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, channel and spatial attention on their result, and a shortcut around all of them.

    (B, in_channels, H, W) to (B, out_channels, H, W). The shortcut is the identity, or a 1x1 convolution with batch
    norm if the width changes. The convolutions have (redundant) biases, because the released weights contain them.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.channel_attention = ChannelAttention(out_channels)
        self.spatial_attention = SpatialAttention()
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        z = self.channel_attention(y) * y
        return relu(self.spatial_attention(z) * z + self.shortcut(x))


def residual_node(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    """A node of the nested U-Net: `depth` residual blocks, the first of which changes the width."""
    widths = [in_channels] + [out_channels] * depth
    return nn.Sequential(*(ResidualBlock(*pair) for pair in pairwise(widths)))


class EfficientChannelAttention(nn.Module):
    """ECA as used in SRS: x times the sigmoid of a 1-D convolution along the channel *maxima* of sigmoid(x).

    The original (https://arxiv.org/abs/1910.03151) pools averages of x.
    """

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # The sigmoid is monotonic, so it can follow the pooling and is computed for C values instead of C * H * W.
        pooled = torch.sigmoid(spatial_maximum(x).flatten(1))  # (B, C)
        weights = torch.sigmoid(self.conv(pooled.unsqueeze(1))).squeeze(1)  # (B, 1, C) -> (B, C)
        return x * weights[:, :, None, None]


class ShuffleUp(nn.Sequential):
    """Sub-pixel upsampling to the next row: (B, C, H, W) to (B, out_channels, 2H, 2W).

    PixelShuffle (https://arxiv.org/abs/1609.05158) converts four channels into 2x2 pixels; a 3x3 convolution with batch
    norm and ReLU then maps the C / 4 channels to the width of the row.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shuffle = nn.PixelShuffle(2)
        self.conv = nn.Conv2d(in_channels // 4, out_channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()


class Concatenate(nn.Module):
    """Concatenates the channels of maps: (B, C1, H, W), (B, C2, H, W), ... to (B, C1 + C2 + ..., H, W)."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, dim=1)


class BLAM(nn.Module):
    """Bottom-up local attention: fuses the map of a row with the deeper one, both (B, C, H, W).

    The shallow map goes through two 1x1 convolutions, the deep one through ECA; a 1x1 convolution joins them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.low = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.deep = EfficientChannelAttention()
        self.concatenate = Concatenate()
        self.join = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        return self.join(self.concatenate(self.deep(deep), self.low(low)))


class LocalContrast(nn.Module):
    """Weights x by its local contrast at three scales (1x1, 3x3, dilated 3x3).

    Each learned convolution computes a local mean mu of x, and a local spread s of the deviation x - mu. The weight w
    is the sigmoid of the mean of the normalised deviations (x - mu + eps) / (s + eps); the result is x * w + x.
    """

    EPS = 0.001

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            [
                nn.Conv2d(channels, channels, 1),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        contrasts = [self._contrast(conv, x) for conv in self.scales]
        return x * torch.sigmoid(sum(contrasts) / len(contrasts)) + x

    def _contrast(self, conv: nn.Module, x: Tensor) -> Tensor:
        deviation = x - conv(x)
        spread = torch.sigmoid(conv(deviation))
        return (deviation + self.EPS) / (spread + self.EPS)


def mean(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The mean over `dim`, which is kept with size 1.

    The sum is computed in float32 at least: in float16 it overflows for a map of 128x128 pixels with a mean of 4.
    """
    return x.mean(dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)


def spatial_maximum(x: Tensor) -> Tensor:
    """The maximum of each channel, (B, C, 1, 1); of equal maxima, one gets the gradient.

    `max` along one dimension is parallel and deterministic on every device; pooling the whole map is not.
    """
    return x.flatten(2).max(2).values[:, :, None, None]
