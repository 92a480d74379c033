"""DPConv, the dynamic-parameter convolution: a feature of one network generates the kernel for another network.

Use in your own network:

    dpconv = DPConv(channels=256, deep_channels=64)
    x = x + dpconv(x, deep)        # x (B, 256, h, w); deep (B, 64, any, any), of the same images

    conv = DPConv2d(32, 64, kernel_size=5, stride=2, source_channels=16)      # replaces a Conv2d
    y = conv(x, source)            # x (B, 32, h, w), source (B, 16, any, any) to (B, 64, ceil(h / 2), ceil(w / 2))

Paper: SRS, section III-C, https://arxiv.org/abs/2312.01741.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import ChannelAttention, SpatialAttention, mean

FORMS = ("shared", "per_sample")


class DPConv2d(nn.Module):
    """Convolves x with a kernel generated, for each sample, from a source feature of the same sample.

    The source feature is refined by attention and pooled to a code g of `source_channels` numbers, and a grouped 1x1
    convolution expands g to the values of the kernel. This convolution has one input channel per group. With its
    weights W and biases V viewed as kernels, the kernel of output channel o is

        kernel[o] = g[o // (out_channels / source_channels)] * W[o] + V[o]

    and, since convolution is linear, DPConv2d(x) = g * conv(x, W) + conv(x, V): two ordinary convolutions, shared by
    all samples. Both forms are exact. `form` selects one: "shared" has twice the multiplications, but builds no
    kernel for each sample (2.4 MB for 256 to 256 channels) and is faster; "per_sample" builds them and convolves each
    sample with its own kernel, like the equation of the paper.

    PyTorch's default initialisation is used. The grouped convolution has a fan-in of 1, so W and V are initially
    uniform in (-1, 1), about 25 to 50 times as large as the weights of an ordinary convolution.

    Args:
        in_channels: of x; a multiple of `groups`.
        out_channels: of the result; a multiple of `groups` and of `source_channels`.
        kernel_size, stride, dilation, groups: as in `torch.nn.Conv2d`, the first three for both directions. There is no
            bias.
        padding: zeros on each side (default: dilation * (kernel_size - 1) // 2, which keeps the size of the map for
            stride 1 and an odd kernel).
        source_channels: of the source feature; a multiple of 8 (its channel attention's reduction).
        form: one of `FORMS`; may be changed at any time through the attribute of the same name.

    Raises:
        ValueError: for channels that do not fit together, or an unknown form.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        source_channels: int = 64,
        *,
        padding: int | None = None,
        form: str = "shared",
    ) -> None:
        super().__init__()
        if out_channels % source_channels or source_channels % 8:
            raise ValueError(
                "DPConv needs the channels of its result to be a multiple of those of its source, and these of 8; "
                f"got {out_channels} and {source_channels}"
            )
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"DPConv needs its channels to be multiples of groups, got {in_channels} to {out_channels} "
                f"in {groups} groups"
            )
        if form not in FORMS:
            raise ValueError(f"DPConv form {form!r} is not one of {', '.join(FORMS)}")
        self.in_channels, self.out_channels, self.source_channels = in_channels, out_channels, source_channels
        self.kernel_size, self.stride, self.dilation, self.groups = kernel_size, stride, dilation, groups
        self.padding = dilation * (kernel_size - 1) // 2 if padding is None else padding
        self.form = form
        self.channel_attention = ChannelAttention(source_channels)
        self.spatial_attention = SpatialAttention()
        self.project = nn.Conv2d(source_channels, source_channels, 1)
        numbers = out_channels * (in_channels // groups) * kernel_size**2
        self.expand = nn.Conv2d(source_channels, numbers, 1, groups=source_channels)

    def code(self, source: Tensor) -> Tensor:
        """The code g of each sample: (B, source_channels, h, w) to (B, source_channels)."""
        refined = self.spatial_attention(self.channel_attention(source) * source) * source
        # The average is taken before the 1x1 convolution. Both are linear, so the result is the same, but the
        # convolution is computed for one pixel instead of h * w.
        return self.project(mean(refined, (2, 3))).flatten(1)

    def kernels(self, source: Tensor) -> Tensor:
        """The generated kernels: (B, source_channels, h, w) to (B, out, in / groups, kernel_size, kernel_size)."""
        return self.kernels_of(self.code(source))

    def kernels_of(self, code: Tensor) -> Tensor:
        """The kernels of the codes g (B, source_channels), g * W + V."""
        return self._view(self.expand(code[:, :, None, None]), len(code))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x (B, in_channels, h, w) and source (B, source_channels, h', w') to (B, out_channels, h'', w'')."""
        return self.with_code(x, self.code(source))

    def with_code(self, x: Tensor, code: Tensor) -> Tensor:
        """x (B, in_channels, h, w) convolved with the kernels of the codes g (B, source_channels)."""
        convolve = self._convolve_per_sample if self.form == "per_sample" else self._convolve_shared
        return convolve(x, code)

    def _convolve_shared(self, x: Tensor, code: Tensor) -> Tensor:
        w_and_v = torch.stack([self._view(self.expand.weight), self._view(self.expand.bias)])
        by_group = w_and_v.unflatten(1, (self.groups, -1)).transpose(0, 1)  # (groups, 2, out / groups, ...)
        maps = self._conv(x, by_group.flatten(0, 2), self.groups)  # (B, 2 * out, h, w)
        of_w, of_v = maps.unflatten(1, (self.groups, 2, -1)).unbind(2)  # (B, groups, out / groups, h, w)
        gain = self._gain(code).unflatten(1, (self.groups, -1))
        return (gain[..., None, None] * of_w + of_v).flatten(1, 2)

    def _convolve_per_sample(self, x: Tensor, code: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        kernels = self.kernels_of(code).flatten(0, 1)  # (B * out, in / groups, k, k)
        # Convolving each sample with its own kernel is one grouped convolution over the stacked channels.
        stacked = x.reshape(1, batch * channels, height, width)
        result = self._conv(stacked, kernels, batch * self.groups)
        return result.view(batch, self.out_channels, *result.shape[2:])

    def _conv(self, x: Tensor, kernels: Tensor, groups: int) -> Tensor:
        return F.conv2d(x, kernels, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=groups)

    def _gain(self, code: Tensor) -> Tensor:
        """The factor of W for each output channel, g[o // (out / source_channels)]: (B, out_channels)."""
        return code.repeat_interleave(self.out_channels // code.shape[1], dim=1)

    def _view(self, numbers: Tensor, *leading: int) -> Tensor:
        size = (self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size)
        return numbers.reshape(*leading, *size)


class DPConv(DPConv2d):
    """DPConv as in SRS: a 3x3 `DPConv2d` that keeps channels and size.

    Args:
        channels: C, of x and of the result; a multiple of `deep_channels`.
        deep_channels: of the deep feature, its source; a multiple of 8.
        form: see `DPConv2d`.

    Shape: x (B, C, h, w) and deep (B, deep_channels, h', w') to (B, C, h, w).

    Raises:
        ValueError: for channels that do not fit together, or an unknown form.
    """

    def __init__(self, channels: int, deep_channels: int = 64, form: str = "shared") -> None:
        super().__init__(channels, channels, source_channels=deep_channels, form=form)


def build(channels: int, deep_channels: int) -> DPConv:
    """The layer for the slot `dpconv` of SRS; the files of models/dynamic have the same function."""
    return DPConv(channels, deep_channels)
