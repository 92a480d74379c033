"""The C++ kernels of prediction.cpp, for the operations between convolutions in prediction."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from models.fast.native import CHANNELS, LANES, library, run

KERNEL_SIZE = 7


def attend(
    y: Tensor, shortcut: Tensor, reduce: Tensor, expand: Tensor, kernel: Tensor, last: bool
) -> tuple[Tensor, Tensor | None] | None:
    """relu(S(z) * z + shortcut) with z = C(y) * y, without gradients; None if these maps are not supported.

    Args:
        y: (B, C, H, W), float32 or bfloat16, on the CPU and channels_last like all maps.
        shortcut: the same in float32.
        reduce, expand: (C / 8, C) and (C, C / 8), of the channel attention.
        kernel: (1, 2, 7, 7), of the spatial attention, for the sum and maximum over the channels.
        last: return only the result in the type of y.

    Returns:
        The result in the type of y, and in float32 if y is float32 or not `last`.
    """
    batch, channels, height, width = y.shape
    fits = channels in CHANNELS and width >= LANES and width % 2 == 0
    alike = shortcut.shape == y.shape and reduce.shape[1] == channels and expand.shape == reduce.shape[::-1]
    if (
        not fits
        or not alike
        or kernel.shape != (1, 2, KERNEL_SIZE, KERNEL_SIZE)
        or (functions := library("prediction")) is None
    ):
        return None
    y, shortcut = (each.contiguous(memory_format=torch.channels_last) for each in (y, shortcut))
    narrow = y.dtype == torch.bfloat16
    out = None if narrow and last else torch.empty_like(shortcut)
    out_narrow = torch.empty_like(y) if narrow else None
    scratch = torch.empty(functions.srs_scratch(*map(ctypes.c_long, (height, width, channels))), dtype=torch.float32)
    tensors = y, shortcut, out, out_narrow, reduce, expand, kernel, scratch
    pointers = [None if each is None else ctypes.c_void_p(each.data_ptr()) for each in tensors]
    sizes = map(ctypes.c_long, (batch, height, width, channels, len(reduce)))
    run(functions.srs_attend, y, narrow, *pointers, *sizes)
    return (out_narrow if narrow else out), out


def join(left: Tensor, below: Tensor, others: Sequence[Tensor]) -> Tensor | None:
    """The concatenated channels of left, up(below) and the others; None if these maps are not supported.

    Args:
        left: (B, C, 2H, 2W), like the others; all are float32 or bfloat16, on the CPU, channels_last, without
            gradients.
        below: (B, C', H, W), upsampled bilinearly with aligned corners.
    """
    maps = [left, below, *others]
    alike = all(x.dtype == left.dtype and x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    if not alike or left.device.type != "cpu" or left.dtype not in (torch.float32, torch.bfloat16):
        return None
    batch, _, height, width = left.shape
    fits = below.shape[1] % LANES == 0 and (batch, height, width) == (len(below), *(2 * n for n in below.shape[2:]))
    same = all((len(x), *x.shape[2:]) == (batch, height, width) for x in others)
    if not fits or not same or (functions := library("prediction")) is None:
        return None
    channels = [each.shape[1] for each in maps]
    shape = batch, sum(channels), height, width
    out = torch.empty(shape, dtype=left.dtype, memory_format=torch.channels_last)
    pointers = (ctypes.c_void_p * len(maps))(*(each.data_ptr() for each in maps))
    numbers = (ctypes.c_long * len(maps))(*channels)
    result, sizes = ctypes.c_void_p(out.data_ptr()), map(ctypes.c_long, (batch, height, width))
    counts = map(ctypes.c_long, (len(maps), 1))
    run(functions.srs_join, below, left.dtype == torch.bfloat16, pointers, numbers, *counts, result, *sizes)
    return out
