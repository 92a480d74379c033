"""Batch norm with few, vectorised passes over a map; torch's implementation where this does not pay off."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fast.columns import fold, foldable, unfold
from models.fast.conv_gradients import gradients_of, vectorised


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """norm(x) of an ordinary batch norm with columns folded into channels; requires `foldable(x)` > 1."""
    if norm.training or norm.running_mean is None:
        return _BatchNorm.apply(x, norm.weight, norm.bias, norm)
    return _normalize(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Updates the running statistics with those of a batch of `count` values per channel."""
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)


class Statistics:
    """The statistics of a batch, for the forward and backward pass of a batch norm in training."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.eps = norm.eps

    @property
    def variance(self) -> Tensor:
        return self.rstd.pow(-2) - self.eps

    def forward(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        running = (norm.running_mean, norm.running_var) if norm.track_running_stats else (None, None)
        columns = foldable(x)
        if columns == 1:
            if norm.track_running_stats:
                norm.num_batches_tracked.add_(1)
            y, self.mean, self.rstd = torch.native_batch_norm(
                x, norm.weight, norm.bias, *running, True, norm.momentum, norm.eps
            )
            return y
        # The statistics of a channel are combined from those of its columns, each with 1 / `columns` of the pixels.
        unused = [norm.weight.new_zeros(columns * x.shape[1]) for _ in running]  # in float32, for float32 statistics
        means, variances = torch.batch_norm_update_stats(fold(x, columns), *unused, 0.0)
        means, variances = means.view(columns, -1), variances.view(columns, -1)
        self.mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        self.rstd = torch.rsqrt(variance + self.eps)
        if norm.track_running_stats:
            track(norm, self.mean, variance, x.numel() // x.shape[1])
        return self.again(x, norm.weight, norm.bias)

    def again(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The result of `forward`, computed again."""
        return _normalize(x, self.mean, self.variance, weight, bias, self.eps)

    def backward(self, gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, the weight and the bias."""
        columns = foldable(x)
        if columns == 1:
            return torch.ops.aten.native_batch_norm_backward(
                gradient, x, weight, None, None, self.mean, self.rstd, True, self.eps, [True, True, True]
            )
        # The gradients of weight and bias are the sums of gradient * normalised x and of the gradient.
        folded, wide = fold(gradient, columns), [value.repeat(columns) for value in (weight, self.mean, self.variance)]
        _, *sums = torch.ops.aten.native_batch_norm_backward(
            folded, fold(x, columns), *wide, None, None, False, self.eps, [False, True, True]
        )
        to_weight, to_bias = (value.view(columns, -1).sum(0) for value in sums)
        # The gradient of x is the gradient minus its mean and its projection on the normalised x, times scale.
        scale = weight * self.rstd
        per_pixel = scale * (x.shape[1] / x.numel())
        to_x = fold(self.again(x, -per_pixel * to_weight, -per_pixel * to_bias), columns)
        to_x.addcmul_(folded, scale.to(x.dtype).repeat(columns)[:, None, None])
        return unfold(to_x, columns), to_weight, to_bias


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        ctx.statistics = Statistics(norm)
        ctx.save_for_backward(x, weight, bias)
        return ctx.statistics.forward(x, norm)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if (again := torch.is_grad_enabled()) or vectorised(gradient):  # see training_steps.py
            with torch.enable_grad():
                y = F.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.statistics.eps)
            return *gradients_of(y, [x, weight, bias], gradient, create_graph=again), None
        return *ctx.statistics.backward(gradient, x, weight), None


def _normalize(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    columns = foldable(x)
    numbers = [value if columns == 1 else value.repeat(columns) for value in (mean, variance, weight, bias)]
    return unfold(F.batch_norm(fold(x, columns), *numbers, training=False, eps=eps), columns)
