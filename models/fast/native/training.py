"""The passes of training.cpp over one map."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from models.fast.native import CHANNELS, LANES, library, run


class Passes:
    """The functions of training.cpp for maps like x, (B, C, H, W); a call takes the tensors in their order.

        Passes(x)("norm_relu", x, numbers, out)

    Maps have the type and layout of x; all other tensors are float32 and contiguous.
    """

    def __init__(self, x: Tensor) -> None:
        self.shape = x.dtype == torch.bfloat16, x.shape[0], x.shape[2] * x.shape[3], x.shape[1]

    @staticmethod
    def suit(x: Tensor) -> bool:
        """Whether maps like x are supported."""
        fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and x.shape[1] in CHANNELS
        in_order = fits and x.shape[2] * x.shape[3] % LANES == 0 and x.is_contiguous(memory_format=torch.channels_last)
        return in_order and library("training") is not None

    def __call__(self, name: str, x: Tensor, *tensors: Tensor | None) -> None:
        pointers = [None if each is None else ctypes.c_void_p(each.data_ptr()) for each in (x, *tensors)]
        bfloat16, *sizes = self.shape
        run(library("training")[f"srs_{name}"], x, bfloat16, *map(ctypes.c_long, sizes), *pointers)
