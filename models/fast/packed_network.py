"""Preparation of a network for prediction on the CPU: everything that depends only on its weights is precomputed.

Convolutions store their weights in the layout of oneDNN, with the following batch norm folded in and the ReLU fused
(`packed_conv.py`, `winograd.py`); a residual block ends with one C++ kernel (`native/prediction.cpp`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.blocks import BLAM, LocalContrast, ResidualBlock
from models.fast.columns import fold, unfold
from models.fast.known import (
    knows_block,
    knows_container,
    knows_conv,
    knows_norm,
    knows_sequence,
    untouched,
    with_hooked_ancestor,
)
from models.fast.narrow_conv import BLOCK, block_weight
from models.fast.native.prediction import attend
from models.fast.packed_conv import PackedConv2d, require_autocast
from models.fast.pooling import channel_maximum, channel_sum, spatial_sum_and_maximum
from models.fast.winograd import pack_conv
from models.nested import NestedDecoder, NestedEncoder

_CONTAINERS = (NestedEncoder, NestedDecoder, BLAM, LocalContrast)  # they only call their convolutions


class Packing:
    """Packs the known modules of `network` for prediction, in place; `done` contains their names and kinds.

    Modules whose weights are not float32 stay plain. The packed network has no gradients and cannot be copied or moved.

    Args:
        dtype: the type in which convolutions compute; that of the stem is always float32, as in models/nested.py.
        allowed: whether the module of a name may be packed.
    """

    def __init__(
        self, network: nn.Module, dtype: torch.dtype, allowed: Callable[[str], bool] = lambda name: True
    ) -> None:
        self.dtype, self.allowed, self.plain = dtype, allowed, with_hooked_ancestor(network)
        self.done: dict[str, str] = {}
        self._pack(network)

    def _pack(self, network: nn.Module, path: str = "", inside: bool = False) -> None:
        """Args:
        path: the name of `network` in the whole network.
        inside: whether the parent of `network` only calls its children, so that convolutions may be replaced.
        """
        transparent = type(network) in (nn.ModuleList, nn.ModuleDict)
        inside = (transparent and inside) or any(knows_container(network, each) for each in _CONTAINERS)
        for name, child in list(network.named_children()):
            at = f"{path}.{name}" if path else name
            if self._may(at, child, knows_block):
                network._modules[name] = PackedNode([child], self.dtype)
            elif inside and child not in self.plain and knows_sequence(child):
                exact = name == "stem" and type(network) is NestedEncoder
                network._modules[name] = self._sequence(child, at, torch.float32 if exact else self.dtype)
            elif inside and self._may(at, child, knows_conv):
                network._modules[name] = _alone(pack_conv(child, self.dtype))
            else:
                self._pack(child, at, inside)

    def _may(self, path: str, module: nn.Module, knows: Callable[[nn.Module], bool]) -> bool:
        known = module not in self.plain and knows(module) and self.allowed(path)
        if known and all(parameter.dtype == torch.float32 for parameter in module.parameters()):
            self.done[path] = type(module).__name__
            return True
        return False

    def _sequence(self, sequence: nn.Sequential, path: str, dtype: torch.dtype) -> nn.Sequential:
        """The same sequence, with neighbouring modules fused."""
        packed = nn.Sequential()
        rest = [(name, f"{path}.{name}", child) for name, child in sequence.named_children()]
        while rest:
            name, at, child = rest.pop(0)
            if self._may(at, child, knows_block):
                blocks = [child]
                while rest and self._may(*rest[0][1:], knows_block):
                    blocks.append(rest.pop(0)[2])
                child = PackedNode(blocks, dtype)
            elif self._may(at, child, knows_conv):
                if rest and foldable_norm(rest[0][2]):
                    child = fuse_conv_bn_eval(child, rest.pop(0)[2])
                relu = bool(rest) and untouched(rest[0][2], nn.ReLU)
                child = _alone(pack_conv(child, dtype, relu=relu))
                rest = rest[1:] if relu else rest
            elif knows_sequence(child):
                child = self._sequence(child, at, dtype)
            else:
                self._pack(child, at)
            packed.add_module(name, child)
        return packed


def _alone(conv: nn.Module) -> nn.Module:
    conv.alone = True
    return conv


def foldable_norm(norm: nn.Module) -> bool:
    """Whether a batch norm uses running statistics, so that it can be folded into the preceding convolution."""
    return knows_norm(norm) and not norm.training and norm.running_mean is not None


class PackedNode(nn.Module):
    """A sequence of residual blocks: (B, C, H, W) to (B, C', H, W) in `dtype`, the type of the convolutions.

    The attentions and shortcuts are computed in float32.
    """

    def __init__(self, blocks: Iterable[ResidualBlock], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.blocks = nn.ModuleList(_PackedBlock(block, dtype) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:
        require_autocast(self.dtype)
        with torch.autocast("cpu", enabled=False):
            exact = x.float() if self.blocks[0].shortcut is None else None
            x = x.to(self.dtype)
            for block in self.blocks:
                x, exact = block(x, exact, last=block is self.blocks[-1])
            return x


class _PackedBlock(nn.Module):
    """A residual block: maps a map in the type of the convolutions and in float32 to the next two.

    Without the C++ kernels (`native/`), the attentions work in place in float32. torch's kernels for bfloat16 compute
    in float32 too, and their conversions in each operation take longer than converting the map once.
    """

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = _normed(block.conv1, block.bn1, dtype, relu=True)
        self.second = _normed(block.conv2, block.bn2, dtype)
        self.shortcut = None if isinstance(block.shortcut, nn.Identity) else _normed(*block.shortcut, dtype)
        attention = block.channel_attention
        self.reduce, self.expand = attention.reduce.weight.flatten(1), attention.expand.weight.flatten(1)
        # For the sum and maximum over the channels: the factor of the mean is folded into the kernel.
        self.kernel = block.spatial_attention.conv.weight.clone(memory_format=torch.contiguous_format)
        self.kernel[:, 0] /= block.conv2.out_channels
        padding = len(self.kernel[0, 0]) // 2, 1
        self.block_conv = PackedConv2d(block_weight(self.kernel), None, dtype, padding=padding)

    def forward(self, x: Tensor, exact: Tensor | None, last: bool) -> tuple[Tensor, Tensor | None]:
        y = self.second(self.first(x))
        shortcut = exact if self.shortcut is None else self.shortcut(x).float()
        compiled = attend(y, shortcut, self.reduce, self.expand, self.kernel, last)
        return self._attend(y, shortcut) if compiled is None else compiled

    def _attend(self, y: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        exact = y.float()
        z = exact.mul_(self._channels(exact))
        out = torch.addcmul(shortcut, z, self._pixels(z), out=z).relu_()
        return out.to(y.dtype), out

    def _channels(self, y: Tensor) -> Tensor:
        """The weights of the channel attention, (B, C, 1, 1)."""
        total, maximum = spatial_sum_and_maximum(y)
        hidden = F.linear(torch.cat([total / (y.shape[2] * y.shape[3]), maximum]), self.reduce).relu_()
        return F.linear(hidden.view(2, len(y), -1).sum(0), self.expand).sigmoid_()[:, :, None, None]

    def _pixels(self, z: Tensor) -> Tensor:
        """The weights of the spatial attention, (B, 1, H, W)."""
        pooled = channel_sum(z), channel_maximum(z)
        if z.shape[3] % BLOCK:
            return F.conv2d(torch.cat(pooled, dim=1), self.kernel, padding="same").sigmoid_()
        blocks = torch.cat([fold(each, BLOCK) for each in pooled], dim=1)
        return unfold(self.block_conv(blocks).float(), BLOCK).sigmoid_()


def _normed(conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, relu: bool = False) -> nn.Module:
    """A convolution and its batch norm, followed by a ReLU if `relu`."""
    if foldable_norm(norm):
        return pack_conv(fuse_conv_bn_eval(conv, norm), dtype, relu)
    return nn.Sequential(pack_conv(conv, dtype), norm, nn.ReLU(inplace=True) if relu else nn.Identity())
