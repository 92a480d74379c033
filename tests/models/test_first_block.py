"""The authors' normalisation divides images by 255 twice: +-0.01. Mixed precision must not round them away.

The first convolution makes e.g. 0.2 +- 0.003 of them. bfloat16 resolves that in steps of 0.001, and the batch norm
after it divides by the 0.003.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models


@pytest.mark.parametrize("name", sorted(models.networks()))
def test_every_network_resolves_them_in_bfloat16(name):
    torch.manual_seed(0)
    network = models.build(name).train()
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    seen = []
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().float()))
    image = torch.randn(2, 3, 64, 64) / 255
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            network(image)
    exact, found = seen[0], seen[len(seen) // 2]
    assert exact.std() > 0.1
    assert (found - exact).std() < 0.01 * exact.std()
