"""The 7x7 convolution of the spatial attention, from two maps to one, for eight columns at a time.

With two input channels and one output channel, a convolution uses a sixteenth of a vector register. Here eight
neighbouring columns become channels: (B, 1, H, W) is stored like (B, H, W / 8, 8), a channels_last map of 8 channels
and W / 8 columns, so that no data is moved. The kernel becomes one from 2 * 8 to 8 channels of size 7x3, mostly zeros:
3.4 times the arithmetic in a quarter of the time (docs/development/speed.md). The result is exact.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.fast import worth_it
from models.fast.columns import fold, unfold

BLOCK = 8  # columns
LARGEST = 2 * BLOCK + 1  # kernel


def conv_two_to_one(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """conv2d of two maps, both (B, 1, H, W), with padding that keeps the size: (B, 1, H, W).

    Args:
        weight: (1, 2, K, K), K odd and at most LARGEST.
    """
    padding = weight.shape[-1] // 2
    width = first.shape[3]
    if width % BLOCK or first.numel() < worth_it.FOLDING_PIXELS:
        return F.conv2d(torch.cat([first, second], dim=1), weight, padding=padding)
    blocks = torch.cat([fold(first, BLOCK), fold(second, BLOCK)], dim=1)  # (B, 2 * BLOCK, H, W / BLOCK)
    out = F.conv2d(blocks, block_weight(weight), padding=(padding, 1))
    return unfold(out, BLOCK)


def block_weight(weight: Tensor) -> Tensor:
    """The equivalent kernel between blocks of columns: (1, 2, K, K) to (BLOCK, 2 * BLOCK, K, 3), channels_last.

    From column i of block b - 1 + k to column o of block b, counted within the blocks, it is column BLOCK * (k - 1) + i
    - o + K // 2 of the original kernel, or zero if there is no such column.
    """
    size = weight.shape[-1]
    columns = F.pad(weight[0], (0, 1)).permute(1, 0, 2)  # (K, 2, K + 1): the last column is zero
    wide = columns[:, :, _columns(size, weight.device)]  # (K, 2, BLOCK out, 3, BLOCK in)
    # (out, K, 3, 2, in) in memory: channels_last.
    return wide.permute(2, 0, 3, 1, 4).reshape(BLOCK, size, 3, 2 * BLOCK).permute(0, 3, 1, 2)


@lru_cache
@torch.inference_mode(False)  # tensors created in inference mode could not be used in training later
def _columns(size: int, device: torch.device) -> Tensor:
    out, block, inside = torch.meshgrid(torch.arange(BLOCK), torch.arange(3), torch.arange(BLOCK), indexing="ij")
    column = BLOCK * (block - 1) + inside - out + size // 2
    return torch.where((column >= 0) & (column < size), column, size).to(device)
