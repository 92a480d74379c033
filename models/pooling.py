"""Means and maxima over pixels and over channels, each by the operator that is fastest in channels_last.

torch's own reductions take up to ten times what the memory needs, over some shapes (docs/performance.md). Maps are
(B, C, H, W).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spatial_mean(x: Tensor) -> Tensor:
    """(B, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def spatial_maximum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's maximum and the pixel (row * W + column) it stands at, (B, C, 1, 1) both."""
    if torch.jit.is_tracing():  # for another format, none of which pools windows of a size that is not known yet
        maximum, position = x.flatten(2).max(2)
        return maximum[:, :, None, None], position[:, :, None, None]
    return F.max_pool2d(x, x.shape[2:], return_indices=True)


def channel_sum(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if x.dtype == torch.float32:
        return x.sum(1, keepdim=True)
    # As a matrix product of the pixels, (B, H, W, C), with a column of ones: sum() would first make a float32 copy.
    return (x.permute(0, 2, 3, 1) @ x.new_ones(x.shape[1], 1)).permute(0, 3, 1, 2)


def channel_mean(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    return channel_sum(x) / x.shape[1]


def channel_maximum(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if (x.dtype == torch.float32 and x.shape[1] >= 64) or x.shape[1] % 2 or torch.jit.is_tracing():
        return x.amax(1, keepdim=True)
    while x.shape[1] % 2 == 0:  # halves: amax has no vector instructions for few channels
        x = torch.maximum(*x.chunk(2, dim=1))
    return x if x.shape[1] == 1 else x.amax(1, keepdim=True)
