"""Folding of neighbouring columns into channels: a view of a map with few channels as a map with many.

In channels_last, (B, C, H, W) is stored as (B, H, W, C), which is also (B, H, W / n, n * C): a map with n * C channels
and W / n columns, whose channel i * C + c is channel c of the columns i, i + n, i + 2n... Operations on separate
channels can be applied to this view, with the values of each channel repeated n times. torch's CPU kernels are
vectorised over the channels, and with 8 channels take up to ten times as long as with 64 (docs/development/speed.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.fast import worth_it

CHANNELS = 64  # more channels bring no further gain


def foldable(x: Tensor) -> int:
    """The number of columns of x, (B, C, H, W), to fold into channels; 1 if folding is slower or not possible."""
    columns = CHANNELS // x.shape[1]
    if columns < 2 or x.shape[3] % columns or x.numel() // x.shape[1] < worth_it.FOLDING_PIXELS:
        return 1
    in_order = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    return columns if in_order else 1


def fold(x: Tensor, columns: int) -> Tensor:
    """(B, C, H, W) to (B, columns * C, H, W / columns), both channels_last: a view."""
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1)
    return pixels.reshape(batch, height, width // columns, columns * channels).permute(0, 3, 1, 2)


def unfold(x: Tensor, columns: int) -> Tensor:
    """The inverse of `fold`, as a view."""
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1)
    return pixels.reshape(batch, height, width * columns, channels // columns).permute(0, 3, 1, 2)
