"""A network made ready for prediction on the CPU: `pack`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from models.blocks import ChannelAttention, ResidualBlock, SpatialAttention
from models.dpconv import DPConv
from models.packed import can_pack
from models.packed_block import PackedNode
from models.winograd import pack_conv

_KEPT = (ChannelAttention, SpatialAttention, DPConv)  # their convolutions are small, or written for the image at hand


def pack(network: nn.Module, dtype: torch.dtype) -> None:
    """Packs the convolutions and blocks of `network`, as `SRS.fuse()` returns it, in place; they compute in `dtype`.

    The packed network predicts, on the CPU: no gradients, no copies, no other device. Nothing happens where torch or
    the CPU lacks what it takes.
    """
    if not can_pack(dtype):
        return
    with torch.no_grad():
        _pack(network, dtype)


def _pack(network: nn.Module, dtype: torch.dtype) -> None:
    rectified = _rectified(network) if isinstance(network, nn.Sequential) else {}
    for name, child in network.named_children():
        if isinstance(child, ResidualBlock):
            setattr(network, name, PackedNode([child], dtype))
        elif isinstance(child, nn.Sequential) and all(isinstance(block, ResidualBlock) for block in child):
            setattr(network, name, PackedNode(list(child), dtype))
        elif type(child) is nn.Conv2d and child.groups == 1:
            setattr(network, name, pack_conv(child, dtype, relu=name in rectified))
        elif not isinstance(child, _KEPT):
            _pack(child, dtype)
    for relu in rectified.values():
        setattr(network, relu, nn.Identity())


def _rectified(network: nn.Sequential) -> dict[str, str]:
    """The convolutions of a Sequential that a ReLU follows, batch norms being folded: name to the ReLU's name."""
    steps = [(name, step) for name, step in network.named_children() if not isinstance(step, nn.Identity)]
    return {
        name: following
        for (name, step), (following, after) in pairwise(steps)
        if type(step) is nn.Conv2d and step.groups == 1 and isinstance(after, nn.ReLU)
    }
