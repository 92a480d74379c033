"""Gradients for the custom autograd functions: of convolutions, and of what is left to autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def vectorised(gradient: Tensor) -> bool:
    """Whether vmap computes several backward passes at once, as for a Jacobian: the gradient stands for all of them."""
    # torch names only one of the two keys, Batched and FuncTorchBatched.
    return "Batched" in str(torch._C._dispatch_keys(gradient))


def gradients_of(output: Tensor, inputs: Sequence[Tensor], gradient: Tensor, **options: Any) -> list[Tensor | None]:
    """The gradients of the inputs by torch.autograd.grad; None for those that need none, e.g. frozen parameters."""
    found = iter(torch.autograd.grad(output, [x for x in inputs if x.requires_grad], gradient, **options))
    return [next(found) if x.requires_grad else None for x in inputs]


def conv_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of x, weight and bias of a convolution, as far as `wanted`; zeros for an unwanted bias gradient.

    A batch norm removes the mean of its map, including the bias of the convolution before it. The gradient of this bias
    is zero up to rounding, and its summation would take 5 to 25 % of the time of the weight gradient.
    """
    to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, wanted
    )
    return to_x, to_weight, weight.new_zeros(len(weight)) if to_bias is None else to_bias


def pointwise_backward(gradient: Tensor, x: Tensor, weight: Tensor, to_x: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias of a 1x1 convolution, as in `conv_backward`; that of x is added to `to_x`."""
    maps = [each for each in (gradient, x, to_x) if each is not None]
    in_order = not vectorised(gradient) and all(each.is_contiguous(memory_format=torch.channels_last) for each in maps)
    if not in_order or x.element_size() < 4 or x.shape[1] < 64 or len(weight) > 32:
        more, *to_conv = conv_backward(gradient, x, weight, (0, 0), (to_x is not None, True, False))
        if to_x is not None:
            to_x.add_(more)
        return tuple(to_conv)
    # For many input and few output channels, matrix products take half the time.
    pixels = [each.permute(0, 2, 3, 1).view(-1, each.shape[1]) for each in maps]
    if to_x is not None:
        pixels[2].addmm_(pixels[0], weight.flatten(1))
    to_weight = (pixels[1].t() @ pixels[0]).t().reshape(weight.shape)
    return to_weight, weight.new_zeros(len(weight))
