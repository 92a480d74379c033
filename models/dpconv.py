"""DPConv, the dynamic-parameter convolution: one network's feature writes the kernel for another's.

To use it in a network of your own:

    dpconv = DPConv(channels=256, deep_channels=64)
    x = x + dpconv(x, deep)        # x (B, 256, h, w); deep (B, 64, any, any), of the same images

Paper: SRS, section III-C, https://arxiv.org/abs/2312.01741.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ChannelAttention, SpatialAttention, mean

FORMS = ("shared", "per_sample")


class DPConv(nn.Module):
    """Convolves x with a 3x3 kernel generated, for each sample, from the deep feature of the same sample.

    The deep feature is refined by attention and pooled to a code g of `deep_channels` numbers, and a grouped 1x1
    convolution expands g to the C * C * 3 * 3 numbers of the kernel. That grouped convolution has one input channel in
    a group, so that with weights W and biases V, both viewed as kernels, the kernel of output channel o is

        kernel[o] = g[o // (C / deep_channels)] * W[o] + V[o]

    and, convolution being linear, DPConv(x) = g * conv(x, W) + conv(x, V): two ordinary convolutions that all samples
    share. Both forms are exact. `form` chooses: "shared" never builds the (B, C, C, 3, 3) kernels (2.4 MB a sample at
    C = 256); "per_sample" builds them and convolves each sample with its own, as the equation of the paper reads, at
    half the multiplications.

    Args:
        channels: C, of x and of the result; a multiple of `deep_channels`.
        deep_channels: of the deep feature; a multiple of 8 (its channel attention's reduction).
        form: one of `FORMS`; may be changed at any time through the attribute of the same name.

    Raises:
        ValueError: for channels that do not fit together, or an unknown form.
    """

    KERNEL_SIZE = 3

    def __init__(self, channels: int, deep_channels: int = 64, form: str = "shared") -> None:
        super().__init__()
        if channels % deep_channels or deep_channels % 8:
            raise ValueError(
                f"DPConv needs channels to be a multiple of deep_channels, and deep_channels of 8; "
                f"got {channels} and {deep_channels}"
            )
        if form not in FORMS:
            raise ValueError(f"DPConv form {form!r} is not one of {', '.join(FORMS)}")
        self.channels = channels
        self.form = form
        self.channel_attention = ChannelAttention(deep_channels)
        self.spatial_attention = SpatialAttention()
        self.project = nn.Conv2d(deep_channels, deep_channels, 1)
        self.expand = nn.Conv2d(deep_channels, channels * channels * self.KERNEL_SIZE**2, 1, groups=deep_channels)

    def code(self, deep: Tensor) -> Tensor:
        """The code g of each sample: (B, deep_channels, h, w) to (B, deep_channels)."""
        refined = self.spatial_attention(self.channel_attention(deep) * deep) * deep
        # The average is taken before the 1x1 convolution, not after: both are linear, so it is the same number, on one
        # pixel in place of h * w.
        return self.project(mean(refined, (2, 3))).flatten(1)

    def kernels(self, deep: Tensor) -> Tensor:
        """The generated kernels: (B, deep_channels, h, w) to (B, out = C, in = C, 3, 3)."""
        return self._kernels(self.code(deep))

    def forward(self, x: Tensor, deep: Tensor) -> Tensor:
        """x (B, C, h, w) and deep (B, deep_channels, h', w') to (B, C, h, w)."""
        convolve = self._convolve_per_sample if self.form == "per_sample" else self._convolve_shared
        return convolve(x, self.code(deep))

    def _convolve_shared(self, x: Tensor, code: Tensor) -> Tensor:
        weights, biases = self._view(self.expand.weight), self._view(self.expand.bias)
        both = F.conv2d(x, torch.cat([weights, biases]), padding=self.KERNEL_SIZE // 2)  # (B, 2C, h, w)
        scaled, constant = both.chunk(2, dim=1)
        return self._gain(code)[:, :, None, None] * scaled + constant

    def _convolve_per_sample(self, x: Tensor, code: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        kernels = self._kernels(code).flatten(0, 1)  # (B * C, C, 3, 3)
        # A batch of samples with kernels of their own is one grouped convolution over their channels side by side.
        stacked = x.reshape(1, batch * channels, height, width)
        return F.conv2d(stacked, kernels, padding=self.KERNEL_SIZE // 2, groups=batch).view_as(x)

    def _kernels(self, code: Tensor) -> Tensor:
        return self._view(self.expand(code[:, :, None, None]), len(code))

    def _gain(self, code: Tensor) -> Tensor:
        """What each output channel's W is multiplied by, g[o // (C / deep_channels)]: (B, C)."""
        return code.repeat_interleave(self.channels // code.shape[1], dim=1)

    def _view(self, numbers: Tensor, *leading: int) -> Tensor:
        return numbers.reshape(*leading, self.channels, self.channels, self.KERNEL_SIZE, self.KERNEL_SIZE)


def build(channels: int, deep_channels: int) -> DPConv:
    """The layer for the slot `dpconv` of SRS, as the files of models/dynamic build theirs."""
    return DPConv(channels, deep_channels)
