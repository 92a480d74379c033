"""The two halves of a residual block as one step of autograd each: less to keep, fewer passes over memory.

Between its convolutions a block is a chain of cheap operations on whole maps: batch norm, ReLU, two attentions, sum.
Written plainly, each reads and writes a map, keeps it for the backward pass, and adds one more gradient of that size to
the others; together that is 40 % of a training step. The steps here keep the *outputs of the convolutions* alone and
compute the rest again, which is cheap, and they go over a map as seldom as they can. What is small, the pooled vectors
and the one-channel map, is left to autograd. The plain forms stand beside them: they are what the steps equal, what
runs where there is nothing to train, and the way of batch norms that are not ordinary ones (synchronised, frozen).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models import forms
from models.batch_norm import BatchNormPass, has_pass
from models.columns import fold, foldable, unfold
from models.compiled_steps import NormAttend, NormReLUConv, compiled
from models.conv_gradients import conv_backward, pointwise_backward
from models.pooling import (
    channel_maximum,
    channel_mean,
    channel_sum,
    spatial_maximum_and_where,
    spatial_mean,
    spread,
    where_equal_,
)


def conv_and_shortcut(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, shortcut: nn.Module) -> tuple[Tensor, Tensor]:
    """conv(x), of which nothing but `norm` takes the result, and shortcut(x): (B, C, H, W) to (B, C', H, W) both.

    The shortcut is an identity, or a 1x1 convolution and the batch norm that takes its result.
    """
    changes = not isinstance(shortcut, nn.Identity)
    if not has_pass(norm) or _computes_in(x) != x.dtype or (changes and not has_pass(shortcut[1])):
        return conv(x), shortcut(x)
    parameters = [*conv.parameters(), *(shortcut[0].parameters() if changes else ())]
    y, rest = _ConvAndShortcut.apply(x, conv.padding, *(each.to(x.dtype) for each in parameters))
    return y, shortcut[1](rest) if changes else rest


def norm_relu_conv(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d, following: nn.BatchNorm2d) -> Tensor:
    """conv(relu(norm(x))), of which nothing but `following` takes the result: (B, C, H, W) to (B, C', H, W)."""
    if not has_pass(norm):
        return conv(F.relu(norm(x), inplace=not torch.is_grad_enabled()))
    weight, bias = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    step = NormReLUConv if compiled(x) else _NormReLUConv
    return step.apply(x, norm.weight, norm.bias, weight, bias, norm, conv.padding, has_pass(following))


def norm_attend(
    x: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor, channel_attention: nn.Module, spatial_attention: nn.Module
) -> Tensor:
    """relu(S(z) * z + shortcut) with z = C(y) * y and y = norm(x); C and S are the two attentions' weights.

    All maps are (B, C, H, W). Where maxima are equal, the step's gradient may go to another of them than the plain one.
    """
    if not has_pass(norm):
        y = norm(x)
        z = channel_attention(y) * y
        weights = spread(spatial_attention(z), z.shape[1])
        if torch.is_grad_enabled() or forms.plain():
            return F.relu(weights * z + shortcut)
        return torch.addcmul(shortcut, z, weights).relu_()
    parameters = [*channel_attention.parameters(), *spatial_attention.parameters()]
    step = NormAttend if compiled(x) else _NormAttend
    return step.apply(x, norm.weight, norm.bias, shortcut, norm, channel_attention, spatial_attention, *parameters)


def concatenate(maps: Sequence[Tensor]) -> Tensor:
    """The maps' channels one after the other: (B, C1, H, W), (B, C2, H, W)... to (B, C1 + C2 + ..., H, W)."""
    return torch.cat(maps, dim=1) if forms.plain() else _Concatenation.apply(*maps)


def _computes_in(x: Tensor) -> torch.dtype:
    """What a convolution of x computes in: under autocast, it may be another type than x has."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _ConvAndShortcut(torch.autograd.Function):
    """Two maps of x, whose gradients to x are summed where the first one lies."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        padding: tuple[int, int],
        weight: Tensor,
        bias: Tensor,
        shortcut_weight: Tensor | None = None,
        shortcut_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        ctx.padding = padding
        ctx.save_for_backward(x, weight, shortcut_weight)
        y = F.conv2d(x, weight, bias, padding=padding)
        return y, x.view_as(x) if shortcut_weight is None else F.conv2d(x, shortcut_weight, shortcut_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, shortcut_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, shortcut_weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], True, False
        to_x, *to_conv = conv_backward(gradient, x, weight, ctx.padding, wanted)
        if shortcut_weight is None:
            return to_x if to_x is None else to_x.add_(shortcut_gradient), None, *to_conv
        to_shortcut = pointwise_backward(shortcut_gradient, x, shortcut_weight, to_x)
        return to_x, None, *to_conv, *to_shortcut


class _NormReLUConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        padding: tuple[int, int],
        for_norm: bool,
    ) -> Tensor:
        ctx.normed, ctx.padding, ctx.for_norm = BatchNormPass(norm), padding, for_norm
        ctx.save_for_backward(x, norm_weight, norm_bias, weight)
        return F.conv2d(ctx.normed.forward(x, norm).relu_(), weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight = ctx.saved_tensors
        y = ctx.normed.again(x, norm_weight, norm_bias).relu_()
        wanted = True, True, not ctx.for_norm
        to_y, to_weight, to_bias = conv_backward(gradient, y, weight, ctx.padding, wanted)
        torch.ops.aten.threshold_backward.grad_input(to_y, y, 0, grad_input=to_y)
        return *ctx.normed.backward(to_y, x, norm_weight), to_weight, to_bias, None, None, None


class _NormAttend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        shortcut: Tensor,
        norm: nn.BatchNorm2d,
        channel_attention: nn.Module,
        spatial_attention: nn.Module,
        *parameters: nn.Parameter,
    ) -> Tensor:
        ctx.normed = BatchNormPass(norm)
        y = ctx.normed.forward(x, norm)
        maximum, highest = spatial_maximum_and_where(y)
        with torch.enable_grad():
            pooled = [spatial_mean(y).requires_grad_(), maximum.requires_grad_()]
            channels = channel_attention.weigh(*pooled).to(x.dtype)  # (B, C, 1, 1)
        z = _by_channel(torch.mul, y, channels.detach(), out=y)
        with torch.enable_grad():
            pooled += [channel_mean(z).requires_grad_(), channel_maximum(z).requires_grad_()]
            pixels = spatial_attention.weigh(*pooled[2:]).to(x.dtype)  # (B, 1, H, W)
        out = z.mul_(spread(pixels.detach(), z.shape[1])).add_(shortcut).relu_()
        ctx.save_for_backward(x, norm_weight, norm_bias, out, highest)
        ctx.small = pooled, channels, pixels
        ctx.parameters = list(channel_attention.parameters()), list(spatial_attention.parameters())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, out, highest = ctx.saved_tensors
        (average, maximum, average_z, maximum_z), channels, pixels = ctx.small
        of_channels, of_pixels = ctx.parameters
        weights = channels.detach()
        after = torch.ops.aten.threshold_backward(gradient, out, 0)  # through the ReLU: also the shortcut's

        # z = weights * y has gone into the product with the pixels' weights and, for these, into two poolings.
        y = ctx.normed.again(x, norm_weight, norm_bias)
        z = _by_channel(torch.mul, y, weights)
        to_pixels = channel_sum(z * after)
        to_average, to_maximum, *to_spatial = torch.autograd.grad(pixels, [average_z, maximum_z, *of_pixels], to_pixels)
        is_highest = where_equal_(z, channel_maximum(z))
        to_z = (after * spread(pixels.detach(), z.shape[1])).add_(spread(to_average / z.shape[1], z.shape[1]))
        to_z.addcmul_(is_highest, spread(to_maximum / channel_sum(is_highest), z.shape[1]))

        # y has gone into z and, for the channels' weights, into two poolings.
        to_channels = torch.mul(to_z, y, out=z).sum((2, 3), keepdim=True)
        to_average, to_maximum, *to_channel = torch.autograd.grad(
            channels, [average, maximum, *of_channels], to_channels
        )
        to_y = _by_channel(torch.mul, to_z, weights, out=to_z)
        to_y = _by_channel(torch.add, to_y, to_average / (y.shape[2] * y.shape[3]), out=to_y)
        sample, channel = (torch.arange(size, device=x.device) for size in x.shape[:2])
        at = sample[:, None], channel, highest[..., 0, 0]
        to_y.flatten(2).index_put_(at, to_maximum[..., 0, 0], accumulate=True)  # scatter_add_ copies bfloat16 maps
        to_x = ctx.normed.backward(to_y, x, norm_weight)
        return *to_x, after, None, None, None, *to_channel, *to_spatial


class _Concatenation(torch.autograd.Function):
    """torch.cat, whose gradients are maps of their own and no slices of one, from which on all is slow on CPUs."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.widths = [x.shape[1] for x in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in gradient.split(ctx.widths, dim=1))


def _by_channel(op: Callable[..., Tensor], x: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    """op(x, values) of a map (B, C, H, W) and a value for each of its channels, (B, C, 1, 1)."""
    columns = foldable(x)
    out = None if out is None else fold(out, columns)
    return unfold(op(fold(x, columns), values.repeat(1, columns, 1, 1), out=out), columns)
