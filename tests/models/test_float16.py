"""float16 ends at 65504. A map's sum passes it where the map's mean is 4; all means must be right nevertheless.

On the CPU, by the same operators as on CUDA, where `--amp fp16` is used.
"""

from __future__ import annotations

import pytest
import torch

from models.blocks import ChannelAttention, ResidualBlock, SpatialAttention, mean
from models.dpconv import DPConv

TOLERANCE = 2e-3  # of float16, which has 11 bits


def maps(channels=64, size=128, mean=4.1):
    generator = torch.Generator().manual_seed(0)
    return mean + torch.randn(1, channels, size, size, generator=generator)


@pytest.mark.parametrize(("x", "dim"), [(maps(16), (2, 3)), (maps(256, 8, mean=400.0), 1)])
def test_means(x, dim):
    found = mean(x.half(), dim)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), x.mean(dim, keepdim=True), rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize(("block", "level"), [(ChannelAttention(64), 4.1), (SpatialAttention(), 4.1)])
def test_attention(block, level):
    x = maps(mean=level)
    with torch.no_grad():
        expected = block(x)
        with torch.autocast("cpu", torch.float16):
            found = block(x.half())
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=5e-3)


def test_the_code_of_dpconv():
    torch.manual_seed(0)
    dpconv = DPConv(64, 64)
    deep = maps(mean=20.0)  # attention weights are under 1: what is averaged is 5 or so
    with torch.no_grad():
        expected = dpconv.code(deep)
        with torch.autocast("cpu", torch.float16):
            found = dpconv.code(deep.half())
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.01 * expected.abs().max().item())


def test_a_training_step_of_a_block_with_large_features():
    """Result and gradients are numbers, near those of float32."""
    torch.manual_seed(0)
    block = ResidualBlock(8, 16)
    with torch.no_grad():
        block.bn2.bias.fill_(6.0)  # what both attentions pool
    image = maps(8, mean=0.0).contiguous(memory_format=torch.channels_last)
    results, gradients = {}, {}
    for amp in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.float16, enabled=amp):
            results[amp] = block(image).float()
        results[amp].square().mean().backward()
        gradients[amp] = block.channel_attention.expand.weight.grad.clone()
    torch.testing.assert_close(results[True], results[False], rtol=0.05, atol=0.05)
    largest = gradients[False].abs().max().item()
    torch.testing.assert_close(gradients[True], gradients[False], rtol=0, atol=0.05 * largest)
