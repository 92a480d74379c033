"""FiLM: each image's deep feature scales and shifts the channels of x.

    term = c * x + b,  [c, b] = A z + a,  z = mean of deep over its pixels

so that x + term = (1 + c) x + b; the networks of the paper also predict the scale minus 1. Paper:
https://arxiv.org/abs/1709.07871, section 2. A is (2 C, D). Default initialisation of PyTorch.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks import mean


class FiLM(nn.Module):
    """x (B, C, h, w) and deep (B, D, h', w') to (B, C, h, w)."""

    def __init__(self, channels: int, deep_channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(deep_channels, 2 * channels)

    def code(self, deep: Tensor) -> Tensor:
        """Scales, then shifts: (B, D, h', w') to (B, 2 * C)."""
        return self.affine(mean(deep, (2, 3)).flatten(1))

    def with_code(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = code[:, :, None, None].chunk(2, dim=1)
        return scale * x + shift

    def forward(self, x: Tensor, deep: Tensor) -> Tensor:
        return self.with_code(x, self.code(deep))


def build(channels: int, deep_channels: int) -> FiLM:
    return FiLM(channels, deep_channels)
