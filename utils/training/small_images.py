"""Whether mixed precision rounds the images of `--normalization authors` away: a warning before the training.

That normalisation divides by 255 twice. From images of +-0.01 a convolution with a bias makes e.g. 0.2 +- 0.003, in
bfloat16 in steps of 0.001, and the norm after it divides by the 0.003. The networks of this project compute their first
block in float32; a network that a user adds may not.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from utils.common.precision import Precision

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
# As a share of the spread. In bfloat16 a convolution with a bias has 0.11 to 0.15, one without a bias 0.003.
LARGEST_ERROR = 0.02


def rounding_warning(network: nn.Module, normalization: str, precision: Precision) -> str | None:
    """What to tell the user of this network; None if it resolves its images. Changes nothing in the network."""
    if normalization != "authors" or precision.name == "off":
        return None
    error = _rounding_error(network, precision)
    if error is None or error < LARGEST_ERROR:
        return None
    return (
        f"--amp {precision.name} is too coarse for --normalization authors, whose images are +-0.01: rounding changes "
        f"the input of the network's first norm by {100 * error:.0f} % of its spread. Pass --amp off, or compute the "
        "first block in float32 as models/baselines/unext.py does"
    )


@torch.no_grad()
def _rounding_error(network: nn.Module, precision: Precision) -> float | None:
    """Of the input of the norm that is called first, as a share of its spread; None without a norm."""
    probe = copy.deepcopy(network).eval()
    first: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not first:
            x = inputs[0].cpu().double()  # MPS has no float64
            first.append(x.movedim(-1, 1) if isinstance(module, nn.LayerNorm) else x)  # channels in dimension 1

    for module in probe.modules():
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(keep)
    device = next(network.parameters()).device
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device) / 255
    found = []
    for context in (torch.autocast(device.type, enabled=False), precision.autocast()):
        first.clear()
        with context:
            probe(image)
        if not first:
            return None
        found.append(first[0])
    exact, rounded = found
    of_a_channel = [dim for dim in range(exact.ndim) if dim != 1]
    spread = (exact - exact.mean(of_a_channel, keepdim=True)).std()
    return ((rounded - exact).std() / spread).item()
