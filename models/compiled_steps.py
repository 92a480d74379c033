"""`models.steps` by compiled passes (models/native/training.cpp): the same two steps of autograd, in fewer passes.

With mean and scale = gamma * rstd of a batch norm, y = (x - mean) * scale + beta. The largest y of a channel stands
where x is largest, or smallest if gamma is negative, and all that a batch norm's gradient needs of y's are two sums: of
the gradient, and of the gradient times (x - mean). So nothing but x and the step's result is kept of the maps, and each
pass over them ends in numbers for each channel or pixel, with which autograd or some small tensors go on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.batch_norm import track
from models.conv_gradients import conv_backward
from models.native.training import Passes

WORTH_IT = 1 << 11  # pixels of the batch from which on the passes pay


def compiled(x: Tensor) -> bool:
    """Whether the steps of this module are there for x, (B, C, H, W), and pay."""
    return x.numel() // x.shape[1] >= WORTH_IT and Passes.suit(x)


class _Norm:
    """A batch norm in training: what it has found out about x, (B, C, H, W), and its gradient."""

    def __init__(self, x: Tensor, norm: nn.BatchNorm2d, extremes: bool = False) -> None:
        self.passes = Passes(x)
        batch, channels, height, width = x.shape
        self.pixels, self.count = height * width, x.numel() // channels
        moments = x.new_empty(batch, 2, channels, dtype=torch.float32)
        sign, self.extreme, self.where = None, None, None
        if extremes:
            sign = torch.where(norm.weight < 0, -1.0, 1.0)
            self.extreme = torch.empty_like(moments[:, 0])
            self.where = torch.empty_like(self.extreme, dtype=torch.int32)
        self.passes("moments", x, sign, moments, self.extreme, self.where)
        self.sums, squares = moments.unbind(1)
        self.mean = self.sums.sum(0) / self.count
        deviations = self.sums / self.pixels - self.mean
        variance = (squares + self.pixels * deviations**2).sum(0) / self.count
        self.rstd = torch.rsqrt(variance + norm.eps)
        self.scale = norm.weight.detach() * self.rstd
        self.numbers = torch.stack([self.mean, self.scale, norm.bias.detach()])
        track(norm, self.mean, variance, self.count)

    def __call__(self, x: Tensor) -> Tensor:
        """y of some numbers of x, (B, C) to (B, C, 1, 1)."""
        return torch.addcmul(self.numbers[2], x - self.mean, self.scale)[:, :, None, None]

    def linear(self, total: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """What the gradient of x has beside scale * that of y: a shift, and a slope that (x - mean) is multiplied by.

        Args:
            total: the sum of y's gradient, (C); so is
            along: the sum of it times (x - mean).
        """
        slope = self.scale / self.count
        return -slope * total, -slope * self.rstd**2 * along


class NormReLUConv(torch.autograd.Function):
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
        ctx.norm, ctx.padding, ctx.for_norm = _Norm(x, norm), padding, for_norm
        ctx.save_for_backward(x, weight)
        return F.conv2d(_norm_relu(ctx.norm, x), weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), norm = ctx.saved_tensors, ctx.norm
        wanted = True, True, not ctx.for_norm
        to_y, *to_conv = conv_backward(gradient, _norm_relu(norm, x), weight, ctx.padding, wanted)
        to_y = _like(x, to_y)
        sums = torch.empty(len(x), 2, x.shape[1])
        norm.passes("norm_relu_sums", x, to_y, norm.numbers, sums)
        total, along = sums.sum(0)
        norm.passes("norm_relu_backward", x, to_y, norm.numbers, torch.stack(norm.linear(total, along)))
        return to_y, along * norm.rstd, total, *to_conv, None, None, None


class NormAttend(torch.autograd.Function):
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
        normed = _Norm(x, norm, extremes=True)
        with torch.enable_grad():
            pooled = [normed(normed.sums / normed.pixels).requires_grad_(), normed(normed.extreme).requires_grad_()]
            channels = channel_attention.weigh(*pooled)  # (B, C, 1, 1)
        weights = channels.detach().float().flatten(1)
        average, maximum = (torch.empty(len(x), 1, *x.shape[2:]) for _ in range(2))
        normed.passes("pool_channels", x, normed.numbers, weights, average, maximum)
        with torch.enable_grad():
            pooled += [average.requires_grad_(), maximum.requires_grad_()]
            pixels = spatial_attention.weigh(average, maximum)  # (B, 1, H, W)
        attention = pixels.detach().float().contiguous()
        out = torch.empty_like(x)
        normed.passes("finish", x, normed.numbers, weights, attention, _like(x, shortcut), out)
        ctx.save_for_backward(x, out)
        ctx.small = normed, pooled, channels, pixels, weights, attention
        ctx.parameters = list(channel_attention.parameters()), list(spatial_attention.parameters())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, out = ctx.saved_tensors
        norm, (*pooled, average, maximum), channels, pixels, weights, attention = ctx.small
        of_channels, of_pixels = ctx.parameters
        after, to_pixels = torch.empty_like(x), torch.empty_like(attention)
        norm.passes("gate", x, _like(x, gradient), out, norm.numbers, weights, after, to_pixels)

        # z = weights * y has gone into the product with the pixels' weights and, for these, into two poolings.
        to_average, to_maximum, *to_spatial = torch.autograd.grad(
            pixels, [average, maximum, *of_pixels], to_pixels.to(pixels.dtype)
        )
        to_average, to_maximum = (to_average / x.shape[1]).contiguous(), to_maximum.contiguous()
        share, sums = torch.empty_like(attention), torch.empty(len(x), 2, x.shape[1])
        of_z = x, after, norm.numbers, weights, attention, to_average, maximum.detach()
        norm.passes("attend_sums", *of_z, to_maximum, share, sums)
        total, along = sums.unbind(1)  # of the gradient of z, and of it times (x - mean)

        # y has gone into z and, for the channels' weights, into two poolings.
        to_channels = (norm.scale * along + norm.numbers[2] * total)[:, :, None, None]
        to_mean, to_highest, *to_channel = torch.autograd.grad(
            channels, [*pooled, *of_channels], to_channels.to(channels.dtype)
        )
        to_mean, to_highest = to_mean.flatten(1), to_highest.flatten(1)
        total = (weights * total + to_mean + to_highest).sum(0)
        deviations = norm.sums / norm.pixels - norm.mean, norm.extreme - norm.mean
        along = (weights * along + to_mean * deviations[0] + to_highest * deviations[1]).sum(0)
        shift, slope = norm.linear(total, along)
        shift = shift + norm.scale * to_mean / norm.pixels
        linear = torch.stack([norm.scale * weights, shift, slope.expand_as(shift)], dim=1)  # (B, 3, C)
        to_x = torch.empty_like(x)
        norm.passes("attend_backward", *of_z, share, linear, to_x)
        sample, channel = torch.arange(len(x))[:, None], torch.arange(x.shape[1])
        at = sample, channel, norm.where.long()
        to_x.flatten(2).index_put_(at, (norm.scale * to_highest).to(x.dtype), accumulate=True)
        return to_x, along * norm.rstd, total, after, None, None, None, *to_channel, *to_spatial


def _norm_relu(norm: _Norm, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    norm.passes("norm_relu", x, norm.numbers, out)
    return out


def _like(x: Tensor, other: Tensor) -> Tensor:
    """`other` in the type and the layout of x."""
    return other.to(x.dtype).contiguous(memory_format=torch.channels_last)
