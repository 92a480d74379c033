"""Convolution of each sample with its own kernel, in operations that export at any batch and size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve_per_sample(x: Tensor, kernels: Tensor, size: int = 3) -> Tensor:
    """Convolves sample b of x with kernels[b], with zero padding that keeps the size of the map.

    A grouped convolution with a group per sample would give the same result, but the number of groups is an attribute
    of an exported convolution, which would fix the batch size. The batched matrix product of the kernels and the
    patches of x has no such attribute and needs the same number of multiplications.

    Args:
        x: (B, in, h, w).
        kernels: (B, out, in, size, size).
        size: of the kernel, odd.

    Returns:
        (B, out, h, w).
    """
    height, width = x.shape[2:]
    padded = F.pad(x, [size // 2] * 4)
    shifted = [padded[:, :, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    patches = torch.cat(shifted, dim=1).flatten(2)  # (B, size * size * in, h * w)
    rows = kernels.permute(0, 1, 3, 4, 2).flatten(2)  # (B, out, size * size * in), in the order of the patches
    return (rows @ patches).unflatten(2, (height, width))


class CodeToKernel(nn.Module):
    """A layer that makes a code of a deep map and a kernel of the code: a subclass defines `code` and `kernels_of`.

    `code`: (B, D, h', w') to (B, n). `kernels_of`: (B, n) to (B, out = C, in = C, 3, 3).
    """

    def kernels(self, deep: Tensor) -> Tensor:
        """(B, D, h', w') to (B, out = C, in = C, 3, 3)."""
        return self.kernels_of(self.code(deep))

    def with_code(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, C, h, w) and a code (B, n) to (B, C, h, w); overridden by layers that add more than the convolution."""
        return convolve_per_sample(x, self.kernels_of(code))

    def forward(self, x: Tensor, deep: Tensor) -> Tensor:
        return self.with_code(x, self.code(deep))
