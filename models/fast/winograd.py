"""3x3 convolutions with half the multiplications: Winograd's F(4, 3) along the columns of a map.

Four neighbouring rows of the result depend on six rows of the map, with three multiplications each. Winograd's
algorithm (Lavin and Gray, https://arxiv.org/abs/1509.09308, section 4.3) needs six in total: six weighted sums of the
rows are convolved with one-row kernels, and weighted sums of these six products are the four rows. The algorithm is
exact; its rounding error in float32 is twice that of direct convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.fast import worth_it
from models.fast.packed_conv import PackedConv2d

GROUP = 4  # rows of the result

# The interpolation points are 0, 1, -1, 2, -2 and infinity.
_SUMS = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
_KERNELS = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float32)
_KERNELS /= 24
_ROWS = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)


class WinogradConv2d(nn.Module):
    """A 3x3 convolution that keeps the size, followed by a ReLU if `relu`, for prediction on CPUs in float32.

    (B, C, H, W) to (B, C', H, W). Small maps, and maps whose height is not a multiple of 4, use direct convolution.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool = False) -> None:
        super().__init__()
        self.direct = PackedConv2d(conv.weight, conv.bias, torch.float32, padding=conv.padding, relu=relu)
        self.channels, self.relu = conv.out_channels, relu
        kernels = torch.einsum("sk,oikl->soil", _KERNELS, conv.weight)[:, :, :, None]  # (6, C', C, 1, 3)
        # The second product is in each row once, and so is the bias if that product has it. The sums come row by row,
        # and each kernel takes every sixth.
        biases = [conv.bias if number == 1 else None for number in range(len(kernels))]
        self.products = nn.ModuleList(
            PackedConv2d(kernel, bias, torch.float32, stride=(len(kernels), 1), padding=(0, 1))
            for kernel, bias in zip(kernels, biases, strict=True)
        )

    @staticmethod
    def suits(conv: nn.Conv2d, dtype: torch.dtype) -> bool:
        """Whether it can replace `conv`, and can pay off."""
        ordinary = (conv.kernel_size, conv.padding, conv.stride, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        channels = min(conv.in_channels, conv.out_channels)
        return ordinary and dtype == torch.float32 and channels >= worth_it.WINOGRAD_CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        groups = height // GROUP
        if height % GROUP or groups < 2 or height * width * channels * self.channels < worth_it.WINOGRAD_PRODUCTS:
            return self.direct(x)
        y = x.new_empty(batch, groups, GROUP, width * self.channels)
        for image, rows in zip(x, y, strict=True):  # one image at a time, to stay in the cache
            sums = _row_sums(image, groups)
            products = torch.cat([conv(sums[:, :, first:]) for first, conv in enumerate(self.products)])
            products = products.permute(2, 0, 3, 1).flatten(2)  # (groups, 6, W * C')
            torch.bmm(_ROWS.expand(groups, -1, -1), products, out=rows)
        y = y.view(batch, height, width, self.channels).permute(0, 3, 1, 2)
        return y.relu_() if self.relu else y


def _row_sums(image: Tensor, groups: int) -> Tensor:
    """The six sums of each group of rows: (C, H, W) to (1, C, 6 * groups, W), channels_last."""
    channels, height, width = image.shape
    row = width * channels
    rows = image.permute(1, 2, 0).reshape(height, row)
    sums = rows.new_empty(groups, len(_SUMS), row)
    # A group includes the row above and the row below its result; at the edges of the map these are zero padding.
    torch.mm(_SUMS[:, 1:], rows[:5], out=sums[0])
    torch.mm(_SUMS[:, :-1], rows[-5:], out=sums[-1])
    inner = rows[GROUP - 1 :].as_strided((groups - 2, len(_SUMS), row), (GROUP * row, row, 1))
    torch.bmm(_SUMS.expand(groups - 2, -1, -1), inner, out=sums[1:-1])
    return sums.view(1, groups * len(_SUMS), width, channels).permute(0, 3, 1, 2)


def pack_conv(conv: nn.Conv2d, dtype: torch.dtype, relu: bool = False) -> nn.Module:
    """The packed form of a convolution, and of the following ReLU if `relu`, for prediction on the CPU."""
    if WinogradConv2d.suits(conv, dtype):
        return WinogradConv2d(conv, relu)
    return PackedConv2d(conv.weight, conv.bias, dtype, conv.stride, conv.padding, conv.dilation, relu)
