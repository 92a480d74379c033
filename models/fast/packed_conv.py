"""Convolutions for prediction on CPUs, with their weights as oneDNN computes with them, and the ReLU that follows.

torch has the operators for that, `torch.ops.mkldnn`, for its own compiler. They know neither gradients nor autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """An ordinary convolution, as `nn.Conv2d`, then the ReLU if `relu`; computes in and returns `dtype`."""

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
        # Not a buffer: nothing but this operator can read the packed weights.
        self.numbers = packed, None if bias is None else bias.to(dtype), *geometry, "relu" if relu else "none", [], ""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x.to(self.dtype), *self.numbers)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch, on this CPU, has the operators."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return there and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
