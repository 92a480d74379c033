"""UNeXt has the published size, and its parts do what the paper says."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from models.baselines import unext


def test_published_counts():
    network = models.build("unext").eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_471_921
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 256, 256))
    assert counter.get_total_flops() / 2 == 562_003_968


def test_any_size_and_every_parameter_is_trained():
    network = models.build("unext").train()
    for size in ((40, 70), (33, 64)):
        assert network(torch.randn(2, 1, *size)).shape == (2, 1, *size)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("dim", [2, 3])
def test_shift_moves_a_fifth_of_the_channels_by_each_of_five_steps(dim):
    x = torch.randn(2, 13, 6, 7)  # 3 channels each, and 1
    found = unext.shift(x, dim)
    assert found.shape == x.shape
    for part, by in enumerate((-2, -1, 0, 1, 2)):
        channels = slice(3 * part, 3 * part + 3)
        expected = torch.roll(x[:, channels], by, dim)
        outside = range(by) if by > 0 else range(x.shape[dim] + by, x.shape[dim])
        for i in outside:
            expected.select(dim, i).zero_()
        assert torch.equal(found[:, channels], expected)


def test_a_shifted_mlp_block_equals_its_equation():
    """LN(T + MLP(shift_H(GELU(DWConv(MLP(shift_W(LN(T)))))))), on tokens (B, N, C)."""
    torch.manual_seed(0)
    block = unext.ShiftedMLP(10)
    x = torch.randn(2, 10, 6, 5)

    def on_tokens(module, x):
        tokens = x.flatten(2).transpose(1, 2)
        return module(tokens).transpose(1, 2).unflatten(2, x.shape[2:])

    y = on_tokens(block.across_width.module, unext.shift(on_tokens(block.norm_in.module, x), 3))
    y = torch.nn.functional.gelu(block.depthwise(y))
    y = on_tokens(block.across_height.module, unext.shift(y, 2))
    torch.testing.assert_close(block(x), on_tokens(block.norm_out.module, x + y))
    assert block.depthwise.groups == 10
