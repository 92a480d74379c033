"""A batch norm in training and the operations around it in a residual block, as passes over maps: in torch or in C++.

`training_steps.py` is built from these passes. Both kinds keep two values per channel of x (B, C, H, W), and compute
the rest again in the backward pass:

    norm = norm_pass(x, module)                     # statistics of x; the module's running ones move
    y = norm.relu(x)                                # relu(norm(x))
    gradients = norm.relu_backward(to_y, y, x)      # of x, of the norm's weight and its bias

    norm = norm_pass(x, module, attended=True)      # also of y = norm(x): average and maximum, (B, C, 1, 1)
    z = norm.weighted(x, channels)                  # z = channels * y
    average, maximum = z.pool()                     # over the channels, (B, 1, H, W)
    out = z.finish(pixels, shortcut)                # relu(pixels * z + shortcut)

and in the backward pass, for a new z: `gate`, `to_channels`, `to_x`, in this order. `channels` and `pixels` are the
weights of the two attentions, (B, C, 1, 1) and (B, 1, H, W), without gradients. `to_NAME` is the gradient of NAME.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.fast import worth_it
from models.fast.batch_norm import Statistics, track
from models.fast.columns import fold, foldable, unfold
from models.fast.native.training import Passes
from models.fast.pooling import (
    channel_maximum,
    channel_mean,
    channel_sum,
    spatial_maximum_and_where,
    spatial_mean,
    spread,
    where_equal_,
)

Gradients = tuple[Tensor, Tensor, Tensor]  # of x, and of the weight and bias of a batch norm


def norm_pass(x: Tensor, norm: nn.BatchNorm2d, attended: bool = False) -> TorchNorm | CompiledNorm:
    """The passes for x: in C++ if they support such maps and pay off; see above."""
    large = x.numel() // x.shape[1] >= worth_it.COMPILED_PIXELS
    return (CompiledNorm if large and Passes.suit(x) else TorchNorm)(x, norm, attended)


class TorchNorm:
    """Passes with torch's operators, on columns folded into channels where that pays off (`columns.py`)."""

    def __init__(self, x: Tensor, norm: nn.BatchNorm2d, attended: bool) -> None:
        self.weight, self.bias = norm.weight.detach(), norm.bias.detach()
        self.statistics = Statistics(norm)
        self.y: Tensor | None = self.statistics.forward(x, norm)  # for its first user, which overwrites it
        if attended:
            self.average = spatial_mean(self.y)
            self.maximum, self.highest = spatial_maximum_and_where(self.y)

    def take(self, x: Tensor) -> Tensor:
        """norm(x) as a separate map, which may be overwritten."""
        y, self.y = self.y, None
        return self.statistics.again(x, self.weight, self.bias) if y is None else y

    def relu(self, x: Tensor) -> Tensor:
        return self.take(x).relu_()

    def relu_backward(self, to_y: Tensor, y: Tensor, x: Tensor) -> Gradients:
        torch.ops.aten.threshold_backward.grad_input(to_y, y, 0, grad_input=to_y)
        return self.statistics.backward(to_y, x, self.weight)

    def weighted(self, x: Tensor, channels: Tensor) -> _TorchWeighted:
        return _TorchWeighted(self, x, channels.to(x.dtype))


class _TorchWeighted:
    def __init__(self, norm: TorchNorm, x: Tensor, channels: Tensor) -> None:
        self.norm, self.x, self.channels = norm, x, channels
        first = norm.y is not None  # in the forward pass y is not needed again
        self.y = norm.take(x)
        self.z = _by_channel(torch.mul, self.y, channels, out=self.y if first else None)

    def pool(self) -> tuple[Tensor, Tensor]:
        return channel_mean(self.z), channel_maximum(self.z)

    def finish(self, pixels: Tensor, shortcut: Tensor) -> Tensor:
        return self.z.mul_(spread(pixels.to(self.z.dtype), self.z.shape[1])).add_(shortcut).relu_()

    def gate(self, gradient: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        after = torch.ops.aten.threshold_backward(gradient, out, 0)
        return after, channel_sum(self.z * after)

    def to_channels(
        self, after: Tensor, pixels: Tensor, to_average: Tensor, to_maximum: Tensor, maximum: Tensor
    ) -> Tensor:
        # `maximum` is from the forward pass, which may have rounded differently, so it is computed again here.
        z, count = self.z, self.z.shape[1]
        is_highest = where_equal_(z, channel_maximum(z))
        to_z = (after * spread(pixels.to(z.dtype), count)).add_(spread(to_average / count, count))
        self.to_z = to_z.addcmul_(is_highest, spread(to_maximum / channel_sum(is_highest), count))
        return torch.mul(to_z, self.y, out=z).sum((2, 3), keepdim=True)

    def to_x(self, to_average: Tensor, to_maximum: Tensor) -> Gradients:
        x, norm = self.x, self.norm
        to_y = _by_channel(torch.mul, self.to_z, self.channels, out=self.to_z)
        to_y = _by_channel(torch.add, to_y, to_average.to(x.dtype) / (x.shape[2] * x.shape[3]), out=to_y)
        _add_at(to_y, norm.highest.flatten(1), to_maximum.flatten(1))
        return norm.statistics.backward(to_y, x, norm.weight)


class CompiledNorm:
    """Passes in C++ (native/training.cpp), of which fewer are needed.

    With mean and scale = gamma * rstd of a batch norm, y = (x - mean) * scale + beta. The largest y of a channel is
    where x is largest, or smallest if gamma is negative. The gradient of a batch norm depends on that of y only through
    two sums: of the gradient, and of the gradient times (x - mean). Each pass therefore ends with values per channel or
    pixel, which are processed as small tensors.
    """

    def __init__(self, x: Tensor, norm: nn.BatchNorm2d, attended: bool) -> None:
        self.passes = Passes(x)
        batch, channels, height, width = x.shape
        self.pixels, self.count = height * width, x.numel() // channels
        moments = x.new_empty(batch, 2, channels, dtype=torch.float32)
        sign, self.extreme, self.where = None, None, None
        if attended:
            sign = torch.where(norm.weight < 0, -1.0, 1.0).float()
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
        if attended:
            self.average, self.maximum = self.normed(self.sums / self.pixels), self.normed(self.extreme)

    def normed(self, x: Tensor) -> Tensor:
        """y for some values of x, (B, C) to (B, C, 1, 1)."""
        return torch.addcmul(self.numbers[2], x - self.mean, self.scale)[:, :, None, None]

    def linear(self, total: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """The terms of the gradient of x besides scale * gradient of y: a shift, and the slope of (x - mean).

        Args:
            total: the sum of the gradient of y, (C).
            along: the sum of this gradient times (x - mean), (C).
        """
        slope = self.scale / self.count
        return -slope * total, -slope * self.rstd**2 * along

    def relu(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        self.passes("norm_relu", x, self.numbers, out)
        return out

    def relu_backward(self, to_y: Tensor, y: Tensor, x: Tensor) -> Gradients:
        to_y = _like(x, to_y)
        sums = torch.empty(len(x), 2, x.shape[1], dtype=torch.float32)
        self.passes("norm_relu_sums", x, to_y, self.numbers, sums)
        total, along = sums.sum(0)
        self.passes("norm_relu_backward", x, to_y, self.numbers, torch.stack(self.linear(total, along)))
        return to_y, along * self.rstd, total

    def weighted(self, x: Tensor, channels: Tensor) -> _CompiledWeighted:
        return _CompiledWeighted(self, x, channels.float().flatten(1))


class _CompiledWeighted:
    def __init__(self, norm: CompiledNorm, x: Tensor, channels: Tensor) -> None:
        self.norm, self.x, self.channels = norm, x, channels

    def _values(self) -> Tensor:
        """Memory for a value per pixel, (B, 1, H, W)."""
        return torch.empty(len(self.x), 1, *self.x.shape[2:], dtype=torch.float32)  # whatever the default type is

    def pool(self) -> tuple[Tensor, Tensor]:
        average, maximum = self._values(), self._values()
        self.norm.passes("pool_channels", self.x, self.norm.numbers, self.channels, average, maximum)
        return average, maximum

    def finish(self, pixels: Tensor, shortcut: Tensor) -> Tensor:
        out = torch.empty_like(self.x)
        weights = self.norm.numbers, self.channels, pixels.float().contiguous()
        self.norm.passes("finish", self.x, *weights, _like(self.x, shortcut), out)
        return out

    def gate(self, gradient: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        after, to_pixels = torch.empty_like(self.x), self._values()
        maps = _like(self.x, gradient), out
        self.norm.passes("gate", self.x, *maps, self.norm.numbers, self.channels, after, to_pixels)
        return after, to_pixels

    def to_channels(
        self, after: Tensor, pixels: Tensor, to_average: Tensor, to_maximum: Tensor, maximum: Tensor
    ) -> Tensor:
        x, norm = self.x, self.norm
        pixels, to_average = pixels.float().contiguous(), (to_average / x.shape[1]).contiguous()
        self.share, sums = torch.empty_like(pixels), torch.empty(len(x), 2, x.shape[1], dtype=torch.float32)
        self.of_z = x, after, norm.numbers, self.channels, pixels, to_average, maximum
        norm.passes("attend_sums", *self.of_z, to_maximum.contiguous(), self.share, sums)
        self.total, self.along = sums.unbind(1)  # of the gradient of z, and of this gradient times (x - mean)
        return (norm.scale * self.along + norm.numbers[2] * self.total)[:, :, None, None]

    def to_x(self, to_average: Tensor, to_maximum: Tensor) -> Gradients:
        x, norm, channels = self.x, self.norm, self.channels
        to_average, to_maximum = to_average.flatten(1), to_maximum.flatten(1)
        total = (channels * self.total + to_average + to_maximum).sum(0)
        deviations = norm.sums / norm.pixels - norm.mean, norm.extreme - norm.mean
        along = (channels * self.along + to_average * deviations[0] + to_maximum * deviations[1]).sum(0)
        shift, slope = norm.linear(total, along)
        shift = shift + norm.scale * to_average / norm.pixels
        linear = torch.stack([norm.scale * channels, shift, slope.expand_as(shift)], dim=1)  # (B, 3, C)
        to_x = torch.empty_like(x)
        norm.passes("attend_backward", *self.of_z, self.share, linear, to_x)
        _add_at(to_x, norm.where.long(), norm.scale * to_maximum)
        return to_x, along * norm.rstd, total


def _add_at(x: Tensor, where: Tensor, values: Tensor) -> None:
    """Adds a value to one pixel of each channel of x in place; `where` and `values` are (B, C)."""
    sample, channel = (torch.arange(size, device=x.device) for size in x.shape[:2])
    at = sample[:, None], channel, where
    x.flatten(2).index_put_(at, values.to(x.dtype), accumulate=True)  # scatter_add_ copies bfloat16 maps


def _by_channel(op: Callable[..., Tensor], x: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    """op(x, values) for a map (B, C, H, W) and values per channel, (B, C, 1, 1)."""
    columns = foldable(x)
    out = None if out is None else fold(out, columns)
    return unfold(op(fold(x, columns), values.repeat(1, columns, 1, 1), out=out), columns)


def _like(x: Tensor, other: Tensor) -> Tensor:
    """`other` in the type and the layout of x."""
    return other.to(x.dtype).contiguous(memory_format=torch.channels_last)
