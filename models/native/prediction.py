"""The attentions of a residual block in prediction, by prediction.cpp."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from models.native import CHANNELS, LANES, library, run

KERNEL_SIZE = 7


def attend(
    y: Tensor, shortcut: Tensor, reduce: Tensor, expand: Tensor, kernel: Tensor, last: bool
) -> tuple[Tensor, Tensor | None] | None:
    """relu(S(z) * z + shortcut) with z = C(y) * y, without gradients; None where it cannot be had for these maps.

    Args:
        y: (B, C, H, W), float32 or bfloat16, as all maps on the CPU and channels_last.
        shortcut: the same in float32.
        reduce: (C / 8, C), of the channel attention, and
        expand: (C, C / 8).
        kernel: (1, 2, 7, 7), of the spatial attention, over the channels' sum and maximum.
        last: whether nothing but the result in y's type is wanted.

    Returns:
        the result in y's type, and in float32 if y is float32 or not `last`.
    """
    batch, channels, height, width = y.shape
    fits = channels in CHANNELS and width >= LANES and width % 2 == 0 and kernel.shape[-1] == KERNEL_SIZE
    if not fits or (functions := library("prediction")) is None:
        return None
    y, shortcut = (each.contiguous(memory_format=torch.channels_last) for each in (y, shortcut))
    narrow = y.dtype == torch.bfloat16
    out = None if narrow and last else torch.empty_like(shortcut)
    out_narrow = torch.empty_like(y) if narrow else None
    scratch = torch.empty(functions.srs_scratch(*map(ctypes.c_long, (height, width, channels))))
    tensors = y, shortcut, out, out_narrow, reduce, expand, kernel, scratch
    pointers = [None if each is None else ctypes.c_void_p(each.data_ptr()) for each in tensors]
    sizes = map(ctypes.c_long, (batch, height, width, channels, len(reduce)))
    run(functions.srs_attend, y, narrow, *pointers, *sizes)
    return (out_narrow if narrow else out), out
