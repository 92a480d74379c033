"""Residual blocks made ready for prediction on the CPU, with what their weights alone decide computed beforehand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ResidualBlock
from models.columns import fold, unfold
from models.narrow import BLOCK, block_weight
from models.native.prediction import attend
from models.packed import PackedConv2d
from models.pooling import channel_maximum, channel_sum, spatial_sum_and_maximum
from models.winograd import pack_conv


class PackedNode(nn.Module):
    """Residual blocks in a row: (B, C, H, W) to (B, C', H, W) in `dtype`, in which the convolutions compute.

    The attentions, and what one block's shortcut adds to the next, are float32.
    """

    def __init__(self, blocks: list[ResidualBlock], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.blocks = nn.ModuleList(_PackedBlock(block, dtype) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            exact = x.float() if self.blocks[0].shortcut is None else None
            x = x.to(self.dtype)
            for block in self.blocks:
                x, exact = block(x, exact, last=block is self.blocks[-1])
            return x


class _PackedBlock(nn.Module):
    """One of the blocks: a map in the convolutions' type and in float32 to the next two.

    Where its attentions are not compiled (`models/native/`) they work in place and in float32: torch's kernels
    compute with bfloat16 maps in float32 anyway, and spend more on the way there and back in each operation than all of
    them need when the map is converted once.
    """

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        folded = isinstance(block.bn1, nn.Identity)
        self.conv1 = pack_conv(block.conv1, dtype, relu=folded)
        self.between = nn.Identity() if folded else nn.Sequential(block.bn1, nn.ReLU(inplace=True))
        self.conv2, self.norm = pack_conv(block.conv2, dtype), block.bn2
        self.shortcut = None if isinstance(block.shortcut, nn.Identity) else block.shortcut
        if self.shortcut is not None:
            self.shortcut[0] = pack_conv(block.shortcut[0], dtype)
        attention = block.channel_attention
        self.reduce, self.expand = attention.reduce.weight.flatten(1), attention.expand.weight.flatten(1)
        # Of the channels' sum and maximum: the mean is a sum whose factor goes into the kernel.
        self.kernel = block.spatial_attention.conv.weight.clone(memory_format=torch.contiguous_format)
        self.kernel[:, 0] /= block.conv2.out_channels
        padding = len(self.kernel[0, 0]) // 2, 1
        self.block_conv = PackedConv2d(block_weight(self.kernel), None, dtype, padding=padding)

    def forward(self, x: Tensor, exact: Tensor | None, last: bool) -> tuple[Tensor, Tensor | None]:
        y = self.norm(self.conv2(self.between(self.conv1(x))))
        shortcut = exact if self.shortcut is None else self.shortcut(x).float()
        compiled = attend(y, shortcut, self.reduce, self.expand, self.kernel, last)
        return self._attend(y, shortcut) if compiled is None else compiled

    def _attend(self, y: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        exact = y.float()
        z = exact.mul_(self._channels(exact))
        out = torch.addcmul(shortcut, z, self._pixels(z), out=z).relu_()
        return out.to(y.dtype), out

    def _channels(self, y: Tensor) -> Tensor:
        """The channel attention's weights, (B, C, 1, 1)."""
        total, maximum = spatial_sum_and_maximum(y)
        hidden = F.linear(torch.cat([total / (y.shape[2] * y.shape[3]), maximum]), self.reduce).relu_()
        return F.linear(hidden.view(2, len(y), -1).sum(0), self.expand).sigmoid_()[:, :, None, None]

    def _pixels(self, z: Tensor) -> Tensor:
        """The spatial attention's weights, (B, 1, H, W)."""
        pooled = channel_sum(z), channel_maximum(z)
        if z.shape[3] % BLOCK:
            return F.conv2d(torch.cat(pooled, dim=1), self.kernel, padding="same").sigmoid_()
        blocks = torch.cat([fold(each, BLOCK) for each in pooled], dim=1)
        return unfold(self.block_conv(blocks).float(), BLOCK).sigmoid_()
