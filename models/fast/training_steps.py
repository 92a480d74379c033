"""The two halves of a residual block as one autograd function each, with less stored and fewer passes over memory.

Between its convolutions, a block is a chain of cheap operations on whole maps: batch norm, ReLU, two attentions, sum.
In the plain form each of them reads and writes a map, stores it for the backward pass, and adds a gradient of the same
size; together they take 40 % of a training step. The functions here store only the *outputs of the convolutions* and
compute the rest again, with two kinds of passes (`norm_passes.py`). The small tensors, i.e. the pooled vectors and the
one-channel map, are left to autograd.

Autograd enables gradients in a backward pass only if they are differentiated again (create_graph=True, e.g. for a
gradient penalty). The functions then return the gradients of the plain form, and so they do under vmap (of a Jacobian).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ChannelAttention, SpatialAttention
from models.fast.conv_gradients import conv_backward, gradients_of, pointwise_backward, vectorised
from models.fast.narrow_conv import conv_two_to_one
from models.fast.norm_passes import norm_pass


def conv_and_shortcut(x: Tensor, conv: nn.Conv2d, shortcut: nn.Module) -> tuple[Tensor, Tensor]:
    """conv(x), and x or the 1x1 convolution of the shortcut: (B, C, H, W) to twice (B, C', H, W).

    The result of each convolution must be used only by a batch norm in training.
    """
    changes = not isinstance(shortcut, nn.Identity)
    parameters = [*conv.parameters(), *(shortcut[0].parameters() if changes else ())]
    return _ConvAndShortcut.apply(x, conv.padding, *(each.to(x.dtype) for each in parameters))


def norm_relu_conv(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> Tensor:
    """conv(relu(norm(x))), whose result must be used only by a batch norm: (B, C, H, W) to (B, C', H, W)."""
    weight, bias = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    return _NormReLUConv.apply(x, norm.weight, norm.bias, weight, bias, norm, conv.padding)


def norm_attend(
    x: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor, channel_attention: nn.Module, spatial_attention: nn.Module
) -> Tensor:
    """relu(S(z) * z + shortcut) with z = C(y) * y and y = norm(x); C and S are the weights of the two attentions.

    All maps are (B, C, H, W). Of equal maxima, another one may get the gradient than in the plain form.
    """
    parameters = [*channel_attention.parameters(), *spatial_attention.parameters()]
    return _NormAttend.apply(
        x, norm.weight, norm.bias, shortcut, norm, channel_attention, spatial_attention, *parameters
    )


def concatenate(maps: Sequence[Tensor]) -> Tensor:
    """Concatenates the channels of maps: (B, C1, H, W), (B, C2, H, W), ... to (B, C1 + C2 + ..., H, W)."""
    return _Concatenation.apply(*maps)


def channel_weights(attention: nn.Module, average: Tensor, maximum: Tensor) -> Tensor:
    """The weights of a `ChannelAttention` from the average and maximum of each channel, all (B, C, 1, 1)."""
    pooled = torch.cat([average, maximum])  # one call for both, because calls take longer than the computation
    return torch.sigmoid(sum(attention.expand(torch.relu(attention.reduce(pooled))).chunk(2)))


def pixel_weights(attention: nn.Module, average: Tensor, maximum: Tensor) -> Tensor:
    """The weights of a `SpatialAttention` from the average and maximum over the channels, all (B, 1, H, W)."""
    return torch.sigmoid(conv_two_to_one(average, maximum, attention.conv.weight))


class _ConvAndShortcut(torch.autograd.Function):
    """Two maps computed from x, whose gradients for x are summed in the memory of the first."""

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
    ) -> Tensor:
        ctx.norm, ctx.eps, ctx.padding = norm_pass(x, norm), norm.eps, padding
        ctx.save_for_backward(x, norm_weight, norm_bias, weight)
        return F.conv2d(ctx.norm.relu(x), weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight = ctx.saved_tensors
        if (again := torch.is_grad_enabled()) or vectorised(gradient):
            with torch.enable_grad():
                y = F.relu(F.batch_norm(x, None, None, norm_weight, norm_bias, training=True, eps=ctx.eps))
                out = F.conv2d(y, weight, padding=ctx.padding)
            found = gradients_of(out, [x, norm_weight, norm_bias, weight], gradient, create_graph=again)
            return *found, weight.new_zeros(len(weight)), None, None
        y = ctx.norm.relu(x)
        to_y, *to_conv = conv_backward(gradient, y, weight, ctx.padding, (True, True, False))
        return *ctx.norm.relu_backward(to_y, y, x), *to_conv, None, None


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
        ctx.norm = norm_pass(x, norm, attended=True)
        with torch.enable_grad():
            pooled = [ctx.norm.average.requires_grad_(), ctx.norm.maximum.requires_grad_()]
            channels = channel_weights(channel_attention, *pooled)  # (B, C, 1, 1)
        z = ctx.norm.weighted(x, channels.detach())
        with torch.enable_grad():
            pooled += [each.requires_grad_() for each in z.pool()]
            pixels = pixel_weights(spatial_attention, *pooled[2:])  # (B, 1, H, W)
        out = z.finish(pixels.detach(), shortcut)
        # The weights of the attentions are saved only so that autograd notices if they are changed in place.
        ctx.save_for_backward(x, norm_weight, norm_bias, out, *parameters)
        ctx.small = pooled, channels, pixels
        ctx.parameters = list(channel_attention.parameters()), list(spatial_attention.parameters())
        ctx.attentions, ctx.eps = (channel_attention, spatial_attention), norm.eps
        device = x.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, out, *_ = ctx.saved_tensors
        (*pooled, average_z, maximum_z), channels, pixels = ctx.small
        of_channels, of_pixels = ctx.parameters
        if (again := torch.is_grad_enabled()) or vectorised(gradient):
            after = gradient * (out > 0)
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                y = F.batch_norm(x, None, None, norm_weight, norm_bias, training=True, eps=ctx.eps)
                z = ChannelAttention.forward(ctx.attentions[0], y) * y
                weighted = SpatialAttention.forward(ctx.attentions[1], z) * z
            inputs = [x, norm_weight, norm_bias, *of_channels, *of_pixels]
            to_x, to_weight, to_bias, *rest = gradients_of(weighted, inputs, after, create_graph=again)
            return to_x, to_weight, to_bias, after, None, None, None, *rest
        z = ctx.norm.weighted(x, channels.detach())
        after, to_pixels = z.gate(gradient, out)  # `after`: the gradient before the ReLU, also that of the shortcut

        # z is used in the product with the pixel weights and in two poolings.
        inputs = [average_z, maximum_z, *of_pixels]
        to_pixels = to_pixels.to(pixels.dtype)
        to_average, to_maximum, *to_spatial = gradients_of(pixels, inputs, to_pixels, retain_graph=True)
        to_channels = z.to_channels(after, pixels.detach(), to_average, to_maximum, maximum_z.detach())

        # y is used in z and in two poolings.
        inputs = [*pooled, *of_channels]
        to_channels = to_channels.to(channels.dtype)
        to_average, to_maximum, *to_channel = gradients_of(channels, inputs, to_channels, retain_graph=True)
        to_x = z.to_x(to_average, to_maximum)
        return *to_x, after, None, None, None, *to_channel, *to_spatial


class _Concatenation(torch.autograd.Function):
    """torch.cat with gradients that are separate maps instead of slices of one, which would be slow on CPUs."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.widths = [x.shape[1] for x in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in gradient.split(ctx.widths, dim=1))
