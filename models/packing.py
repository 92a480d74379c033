"""A network made ready for prediction on the CPU: `pack`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ChannelAttention, ResidualBlock, SpatialAttention
from models.columns import fold, unfold
from models.dpconv import DPConv
from models.narrow import BLOCK, block_weight
from models.packed import PackedConv2d, can_pack
from models.pooling import channel_maximum, channel_sum, spatial_maximum, spatial_mean
from models.winograd import WinogradConv2d

_KEPT = (ChannelAttention, SpatialAttention, DPConv)  # their convolutions are small, or written for the image at hand


def pack(network: nn.Module, dtype: torch.dtype) -> None:
    """Packs the convolutions and blocks of `network`, as `SRS.fuse()` returns it, in place; they compute in `dtype`.

    The packed network predicts, on the CPU: no gradients, no copies, no other device. Nothing happens where torch or
    the CPU lacks what it takes.
    """
    if not can_pack(dtype):
        return
    for name, child in network.named_children():
        if isinstance(child, ResidualBlock):
            in_a_row = isinstance(network, nn.Sequential) and child is not network[-1]
            setattr(network, name, _Block(child, dtype, result=torch.float32 if in_a_row else dtype))
        elif type(child) is nn.Conv2d and child.groups == 1:
            setattr(network, name, _packed(child, dtype))
        elif not isinstance(child, _KEPT):
            pack(child, dtype)


class _Block(nn.Module):
    """A residual block, with what its weights alone decide computed beforehand.

    Its attentions work in place and in float32: torch's kernels compute with bfloat16 maps in float32 anyway, and spend
    more on the way there and back in each operation than all of them need when the map is converted once. `result` is
    the type of its result: blocks in a row pass float32 on.
    """

    def __init__(self, block: ResidualBlock, dtype: torch.dtype, result: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.result = dtype, result
        folded = isinstance(block.bn1, nn.Identity)
        self.conv1 = _packed(block.conv1, dtype, relu=folded)
        self.between = nn.Identity() if folded else nn.Sequential(block.bn1, nn.ReLU(inplace=True))
        self.conv2, self.norm = _packed(block.conv2, dtype), block.bn2
        self.shortcut = block.shortcut
        pack(self.shortcut, dtype)
        attention = block.channel_attention
        self.reduce, self.expand = attention.reduce.weight.flatten(1), attention.expand.weight.flatten(1)
        # Of the channels' sum and maximum: the mean is a sum whose factor goes into the kernel.
        self.kernel = block.spatial_attention.conv.weight.clone()
        self.kernel[:, 0] /= block.conv2.out_channels
        padding = len(self.kernel[0, 0]) // 2, 1
        self.block_conv = PackedConv2d(block_weight(self.kernel), None, dtype, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = self.norm(self.conv2(self.between(self.conv1(x)))).float()
            z = y.mul_(self._channels(y))
            return torch.addcmul(self.shortcut(x).float(), z, self._pixels(z), out=z).relu_().to(self.result)

    def _channels(self, y: Tensor) -> Tensor:
        """The channel attention's weights, (B, C, 1, 1)."""
        pooled = torch.cat([spatial_mean(y), spatial_maximum(y)]).flatten(1)
        each = F.linear(F.relu(F.linear(pooled, self.reduce)), self.expand)
        return each.view(2, *y.shape[:2], 1, 1).sum(0).sigmoid_()

    def _pixels(self, z: Tensor) -> Tensor:
        """The spatial attention's weights, (B, 1, H, W)."""
        pooled = channel_sum(z), channel_maximum(z)
        if z.shape[3] % BLOCK:
            return F.conv2d(torch.cat(pooled, dim=1), self.kernel, padding="same").sigmoid_()
        blocks = torch.cat([fold(each, BLOCK) for each in pooled], dim=1)
        return unfold(self.block_conv(blocks).float(), BLOCK).sigmoid_()


def _packed(conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> nn.Module:
    """What stands for a convolution, and for the ReLU after it if `relu`."""
    if WinogradConv2d.suits(conv, dtype):
        return WinogradConv2d(conv, relu)
    return PackedConv2d(conv.weight, conv.bias, dtype, conv.stride, conv.padding, conv.dilation, relu)
