"""Convolutions for prediction on CPUs, with weights in the layout of oneDNN and the following ReLU fused.

They use operators that torch provides for its compiler, `torch.ops.mkldnn`, without support for gradients or autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AutocastIsOff(RuntimeError):
    """A part of a network that runs in bfloat16 turns autocast off, which packed weights cannot follow."""


def require_autocast(dtype: torch.dtype) -> None:
    """Checks that a plain convolution would compute in `dtype`, too, if it is bfloat16.

    Raises:
        AutocastIsOff: otherwise.
    """
    if dtype == torch.bfloat16 and not torch.is_autocast_enabled("cpu"):
        raise AutocastIsOff(
            "autocast is off in a part of the network, which its fast form for bfloat16 does not follow"
        )


class PackedConv2d(nn.Module):
    """An ordinary convolution like `nn.Conv2d`, followed by a ReLU if `relu`; computes in and returns `dtype`.

    `alone`: it takes the place of a convolution of the network; it is not a part of a packed block.
    """

    alone = False

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        relu: bool = False,
    ) -> None:
        super().__init__()
        geometry = padding, stride, dilation, 1
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight.to(dtype), *geometry)
        self.dtype = dtype
        # Not a buffer, because only this operator can read the packed weights.
        self.numbers = packed, None if bias is None else bias.to(dtype), *geometry, "relu" if relu else "none", [], ""

    def forward(self, x: Tensor) -> Tensor:
        if self.alone:
            require_autocast(self.dtype)
        return torch.ops.mkldnn._convolution_pointwise(x.to(self.dtype), *self.numbers)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch has the operators on this CPU."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return there and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
