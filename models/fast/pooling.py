"""Means and maxima over pixels and over channels, each with the operator that is fastest in channels_last.

For some shapes torch's reductions take ten times longer than reading the memory (docs/development/speed.md). Maps are
(B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.fast.columns import CHANNELS, fold, foldable

PIECES = 64  # number of pieces into which a reduction over the pixels divides a map


def spatial_mean(x: Tensor) -> Tensor:
    """(B, C, 1, 1)."""
    if x.dtype == torch.float16:  # the sum over a map can exceed 65504 although its mean is 4
        return x.mean((2, 3), keepdim=True, dtype=torch.float32).to(x.dtype)
    if x.dtype != torch.bfloat16 or x.shape[1] < 64:
        return x.mean((2, 3), keepdim=True)
    # A matrix product of a row of ones with the pixels, because mean() would first create a float32 copy.
    pixels = _pixels(x).flatten(1, 2)  # (B, H * W, C)
    return (pixels.new_ones(1, pixels.shape[1]) @ pixels).permute(0, 2, 1)[..., None] / pixels.shape[1]


def spatial_maximum(x: Tensor) -> Tensor:
    """(B, C, 1, 1)."""
    if torch.is_grad_enabled():  # amax would divide the gradient among equal maxima
        return F.max_pool2d(x, x.shape[2:])
    return _over_pieces(torch.amax, x, _pieces(x))


def spatial_sum_and_maximum(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) both, without gradients."""
    pieces = _pieces(x)
    return _over_pieces(torch.sum, x, pieces).flatten(1), _over_pieces(torch.amax, x, pieces).flatten(1)


def spatial_maximum_and_where(x: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each channel and its pixel (row * W + column), both (B, C, 1, 1)."""
    columns = foldable(x)
    if columns == 1:
        return F.max_pool2d(x, x.shape[2:], return_indices=True)
    batch, channels, height, width = x.shape
    wide = width // columns
    # The maxima of every `columns`-th column, and the largest of them.
    maxima, at = F.max_pool2d(fold(x, columns), (height, wide), return_indices=True)
    maximum, column = maxima.view(batch, columns, channels).max(1)
    at = at.view(batch, columns, channels).gather(1, column[:, None])[:, 0]
    where = at // wide * width + at % wide * columns + column
    return maximum[..., None, None], where[..., None, None]


def channel_sum(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if x.dtype != torch.bfloat16:
        return x.sum(1, keepdim=True)
    # As a matrix product of the pixels with a column of ones, for the same reason.
    return (_pixels(x) @ x.new_ones(x.shape[1], 1)).permute(0, 3, 1, 2)


def channel_mean(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if x.dtype == torch.float16:  # as in `spatial_mean`
        return x.mean(1, keepdim=True, dtype=torch.float32).to(x.dtype)
    return channel_sum(x) / x.shape[1]


def channel_maximum(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if (x.dtype == torch.float32 and x.shape[1] >= 64) or x.shape[1] % 2:
        return x.amax(1, keepdim=True)
    while x.shape[1] % 2 == 0:  # halves: amax has no vector instructions for few channels
        x = torch.maximum(*x.chunk(2, dim=1))
    return x if x.shape[1] == 1 else x.amax(1, keepdim=True)


def where_equal_(x: Tensor, values: Tensor) -> Tensor:
    """x, (B, C, H, W), becomes 1 where it equals its pixel's value, (B, 1, H, W), and 0 elsewhere."""
    if x.dtype == torch.float32 and x.shape[1] < 16:  # comparisons of few channels are not vectorised
        return x.sub_(values).eq_(0)
    return x.eq_(spread(values, x.shape[1]))


def spread(x: Tensor, channels: int) -> Tensor:
    """(B, 1, H, W) as a factor of (B, channels, H, W) maps, which may be (B, 1, H, W) or larger."""
    if x.dtype != torch.bfloat16 or channels > 32:
        return x
    # A product of bfloat16 maps with a value per pixel is not vectorised for few channels, and six times slower.
    return (_pixels(x) @ x.new_ones(1, channels)).permute(0, 3, 1, 2)


def _pieces(x: Tensor) -> Tensor:
    """The map divided into pieces of its pixels, for a sum or maximum over them: (B * pieces, pixels, channels).

    torch divides the result of a reduction among the cores. For a single map these are its channels, so that every core
    reads every cache line, and the next operation, which divides the pixels, has to fetch them again. Pieces are
    divided like the pixels. Neighbouring pixels are combined to about CHANNELS channels for vectorisation.
    """
    batch, channels, height, width = x.shape
    together = math.gcd(height * width, max(CHANNELS // channels, 1))
    pieces = math.gcd(height * width // together, PIECES)
    return _pixels(x).reshape(batch * pieces, -1, together * channels)


def _over_pieces(reduce: Callable[..., Tensor], x: Tensor, pieces: Tensor) -> Tensor:
    """A sum or a maximum over the pixels of x, (B, C, 1, 1), from its `pieces`."""
    return reduce(reduce(pieces, 1).view(len(x), -1, x.shape[1]), 1)[..., None, None]


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)
