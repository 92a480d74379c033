"""Faster classes for modules of `models`, with the same parameters, names and results up to rounding.

A twin is a subclass of the plain class, and a module is converted by changing its `__class__`: it stays the same
object, with its parameters, hooks and state dict. At each call a twin checks whether it is still known (`known.py`); if
not, it runs the forward of the plain class.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ChannelAttention, Concatenate, EfficientChannelAttention, ResidualBlock, SpatialAttention
from models.dpconv import DPConv, DPConv2d
from models.fast import known
from models.fast.batch_norm import batch_norm
from models.fast.columns import foldable
from models.fast.native import prediction
from models.fast.pooling import channel_maximum, channel_mean, spatial_maximum, spatial_mean, spread
from models.fast.training_steps import (
    channel_weights,
    concatenate,
    conv_and_shortcut,
    norm_attend,
    norm_relu_conv,
    pixel_weights,
)
from models.nested import Down, Join, up


class _Twin(nn.Module):
    """A base class of twins, whose copies and pickles are of the plain class: they outlive the twin."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, _, state, *rest = super().__reduce_ex__(2)
        return copyreg._reconstructor, (PLAIN[type(self)], object, None), state, *rest


class FastResidualBlock(_Twin, ResidualBlock):
    """In training, two autograd functions (`training_steps.py`)."""

    def forward(self, x: Tensor) -> Tensor:
        one_value = x.numel() <= x.shape[1]  # of each channel: the plain batch norm refuses it
        if one_value or not (known.nothing_in_the_way() and known.knows_block(self, *TWINS)):
            return super().forward(x)
        norms = [self.bn1, self.bn2, *(m for m in self.shortcut.children() if isinstance(m, nn.BatchNorm2d))]
        if all(map(_in_training, norms)):
            return self._step(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        z = self.channel_attention(y) * y
        return F.relu(spread(self.spatial_attention(z), z.shape[1]) * z + self.shortcut(x))

    def _step(self, x: Tensor) -> Tensor:
        if _computes_in(x) == x.dtype:
            y, shortcut = conv_and_shortcut(x, self.conv1, self.shortcut)
            shortcut = shortcut if isinstance(self.shortcut, nn.Identity) else self.shortcut[1](shortcut)
        else:
            y, shortcut = self.conv1(x), self.shortcut(x)
        y = norm_relu_conv(y, self.bn1, self.conv2)
        return norm_attend(y, self.bn2, shortcut, self.channel_attention, self.spatial_attention)


class FastBatchNorm2d(_Twin, nn.BatchNorm2d):
    """Folds columns into channels on maps with few channels (`columns.py`)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and foldable(x) > 1 and known.nothing_in_the_way() and known.knows_norm(self, *TWINS):
            return batch_norm(x, self)
        return super().forward(x)


class FastChannelAttention(_Twin, ChannelAttention):
    def forward(self, x: Tensor) -> Tensor:
        if known.nothing_in_the_way() and known.knows_channel_attention(self, *TWINS):
            return channel_weights(self, spatial_mean(x), spatial_maximum(x))
        return super().forward(x)


class FastSpatialAttention(_Twin, SpatialAttention):
    def forward(self, x: Tensor) -> Tensor:
        if known.nothing_in_the_way() and known.knows_spatial_attention(self, *TWINS):
            return pixel_weights(self, channel_mean(x), channel_maximum(x))
        return super().forward(x)


class FastEfficientChannelAttention(_Twin, EfficientChannelAttention):
    def forward(self, x: Tensor) -> Tensor:
        if not (known.nothing_in_the_way() and known.knows_eca(self, *TWINS)):
            return super().forward(x)
        pooled = torch.sigmoid(spatial_maximum(x).flatten(1))
        weights = torch.sigmoid(self.conv(pooled.unsqueeze(1))).squeeze(1)
        return x * weights[:, :, None, None]


class FastConcatenate(_Twin, Concatenate):
    """Returns separate gradients, see `concatenate`."""

    def forward(self, *maps: Tensor) -> Tensor:
        if known.nothing_in_the_way() and known.knows_container(self, Concatenate, FastConcatenate):
            return concatenate(maps)
        return super().forward(*maps)


class FastJoin(_Twin, Join):
    """In prediction, upsamples and concatenates with one C++ kernel."""

    def forward(self, left: Tensor, below: Tensor, *others: Tensor) -> Tensor:
        if not (known.nothing_in_the_way() and known.knows_container(self, Join, FastJoin)):
            return super().forward(left, below, *others)
        joined = None if torch.is_grad_enabled() else prediction.join(left, below, others)
        return concatenate([left, up(below), *others]) if joined is None else joined


class FastDown(_Twin, Down):
    """In prediction, two passes that take a third of the time; their gradient would be divided among equal maxima."""

    def forward(self, x: Tensor) -> Tensor:
        even = x.shape[-1] % 2 == x.shape[-2] % 2 == 0
        fast = even and not torch.is_grad_enabled() and known.nothing_in_the_way()
        if not (fast and known.knows_container(self, Down, FastDown)):
            return super().forward(x)
        rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


class FastDPConv(_Twin, DPConv):
    """Builds the kernel when predicting a single image, with half the multiplications of the shared form."""

    def forward(self, x: Tensor, deep: Tensor) -> Tensor:
        single = len(x) == 1 and not torch.is_grad_enabled() and known.nothing_in_the_way()
        if not (single and self.form == "shared" and _knows_dpconv(self)):
            return super().forward(x, deep)
        # One multiplication and addition per value takes a tenth of the time of the grouped convolution.
        gain = self._gain(self.code(deep))[:, :, None, None, None]
        kernels = torch.addcmul(self._view(self.expand.bias), gain, self._view(self.expand.weight))
        return self._conv(x, kernels[0], self.groups)


TWINS = (
    FastResidualBlock,
    FastBatchNorm2d,
    FastChannelAttention,
    FastSpatialAttention,
    FastEfficientChannelAttention,
)

KNOWN: dict[type, tuple[type, Callable[[nn.Module], bool]]] = {
    ResidualBlock: (FastResidualBlock, lambda module: known.knows_block(module, *TWINS)),
    nn.BatchNorm2d: (FastBatchNorm2d, known.knows_norm),
    ChannelAttention: (FastChannelAttention, known.knows_channel_attention),
    SpatialAttention: (FastSpatialAttention, known.knows_spatial_attention),
    EfficientChannelAttention: (FastEfficientChannelAttention, known.knows_eca),
    Concatenate: (FastConcatenate, lambda module: known.knows_container(module, Concatenate)),
    Join: (FastJoin, lambda module: known.knows_container(module, Join)),
    Down: (FastDown, lambda module: known.knows_container(module, Down)),
    DPConv: (FastDPConv, lambda module: _knows_dpconv(module)),
}


PLAIN = {twin: cls for cls, (twin, _) in KNOWN.items()}


def swap(network: nn.Module, allowed: Callable[[str], bool] = lambda name: True) -> dict[str, nn.Module]:
    """Makes twins of the modules of `network` that are known, by name; returns them."""
    swapped, plain = {}, known.with_hooked_ancestor(network)
    for name, module in network.named_modules():
        twin, knows = KNOWN.get(type(module), (None, None))
        if twin is not None and module not in plain and allowed(name) and knows(module):
            module.__class__ = twin
            swapped[name] = module
    return swapped


def swap_back(network: nn.Module) -> None:
    """Converts the twins in `network` back to the plain modules."""
    for module in network.modules():
        module.__class__ = PLAIN.get(type(module), type(module))


def _in_training(norm: nn.BatchNorm2d) -> bool:
    tracks = norm.training and norm.track_running_stats and norm.running_mean is not None
    return tracks and torch.is_grad_enabled() and norm.weight.requires_grad


def _computes_in(x: Tensor) -> torch.dtype:
    """The type in which a convolution of x computes, which may differ from that of x under autocast."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _knows_dpconv(module: nn.Module) -> bool:
    if not (known.untouched(module, DPConv, FastDPConv) and known.as_recorded(DPConv)):
        return False
    if not vars(module).keys().isdisjoint(vars(DPConv2d)):  # it has another method than its class
        return False
    expand = module.expand
    if not known.untouched(expand, nn.Conv2d):
        return False
    weight, bias = (expand._parameters.get(name) for name in ("weight", "bias"))
    return weight is not None and bias is not None and weight.dtype in known.DTYPES
