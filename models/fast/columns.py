"""Neighbouring columns as channels: how a map of few channels becomes one of many without moving in memory.

In channels_last, (B, C, H, W) lies in memory as (B, H, W, C), which is also (B, H, W / n, n * C): a map of n * C
channels and W / n columns, whose channel i * C + c is channel c of the columns i, i + n, i + 2n... What is done to each
channel alone can be done to this map, with each channel's numbers repeated n times. torch's kernels for CPUs go along
the channels, and with 8 of them take up to ten times as long as with 64 (docs/development/speed.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.fast import worth_it

CHANNELS = 64  # from which on nothing is gained


def foldable(x: Tensor) -> int:
    """How many columns of x, (B, C, H, W), to fold into channels; 1 where it does not pay or cannot be done."""
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
    """What `fold` was given, as a view of what it returned."""
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1)
    return pixels.reshape(batch, height, width * columns, channels // columns).permute(0, 3, 1, 2)
