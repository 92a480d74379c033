"""The steps of autograd, and what they are made of, equal the plain modules."""

from __future__ import annotations

import copy
import pickle
from pkgutil import resolve_name

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals
from torch.utils.checkpoint import checkpoint

from models.blocks import Concatenate, ResidualBlock
from models.fast import columns, narrow_conv, worth_it
from models.fast.pooling import (
    channel_maximum,
    channel_mean,
    channel_sum,
    spatial_maximum,
    spatial_maximum_and_where,
    spatial_mean,
    spread,
    where_equal_,
)
from models.fast.twins import FastBatchNorm2d, FastConcatenate, FastResidualBlock, swap


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def layout(request):
    return request.param


def run(block, x, gradient):
    """Output, gradient of the input, gradients of the parameters, batch norms' statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = block(x)
    out.backward(gradient)
    return [out, x.grad, *(parameter.grad for parameter in block.parameters()), *block.buffers()]


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (24, 16), (8, 64), (72, 16)])
def test_a_block_equals_its_plain_form(monkeypatch, layout, inputs, outputs):
    monkeypatch.setattr(worth_it, "FOLDING_PIXELS", 0)
    torch.manual_seed(0)
    block = ResidualBlock(inputs, outputs).double().to(memory_format=layout)
    for norm in (block.bn1, block.bn2):
        nn.init.uniform_(norm.weight, -1, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    for width in (7, 16):  # one that eight columns do not divide, one that they do
        x = torch.randn(3, inputs, 10, width, dtype=torch.float64).to(memory_format=layout)
        gradient = torch.randn(3, outputs, 10, width, dtype=torch.float64)
        ours, plain = copy.deepcopy(block), copy.deepcopy(block)
        swap(ours)
        assert type(ours) is FastResidualBlock and ours.state_dict().keys() == plain.state_dict().keys()
        ours, theirs = run(ours, x, gradient), run(plain, x, gradient)
        assert len(ours) == len(theirs) >= 19
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_biases_that_a_norm_takes_away_have_no_gradient():
    block = ResidualBlock(8, 16)
    swap(block)
    block(torch.randn(2, 8, 6, 6)).sum().backward()
    assert all(not conv.bias.grad.any() for conv in (block.conv1, block.conv2, block.shortcut[0]))
    for norm, conv in ((block.bn2, block.conv2), (block.shortcut[1], block.shortcut[0])):
        block.zero_grad()
        norm.eval()  # takes what it knows away, and not the bias
        block(torch.randn(2, 8, 6, 6)).sum().backward()
        assert conv.bias.grad.any()
        norm.train()


def test_a_step_keeps_fewer_maps():
    def kept(block):
        out = block(torch.randn(2, 16, 32, 32, requires_grad=True))
        todo, saved = [out.grad_fn], []
        while todo:
            node = todo.pop()
            names = [name for name in dir(node) if name.startswith("_saved_")]
            saved += getattr(node, "saved_tensors", [getattr(node, name) for name in names])
            todo += [before for before, _ in node.next_functions if before]
        return len({x.data_ptr() for x in saved if isinstance(x, torch.Tensor) and x.numel() == out.numel()})

    plain, fast = ResidualBlock(16, 16), ResidualBlock(16, 16)
    swap(fast)
    assert kept(fast) <= 4 < 6 <= kept(plain)


@pytest.mark.parametrize("prepare", ["eval", "frozen norms", "no gradients", "one norm in eval"])
def test_what_cannot_be_a_step_is_plain(prepare):
    torch.manual_seed(0)
    block = ResidualBlock(8, 8)
    if prepare == "eval":
        block.eval()
    elif prepare == "frozen norms":
        block.requires_grad_(False)
    elif prepare == "one norm in eval":
        block.bn1.eval()
    fast = copy.deepcopy(block)
    swap(fast)
    x = torch.randn(2, 8, 8, 8)
    with torch.set_grad_enabled(prepare != "no gradients"):
        out, expected = fast(x), block(x)
    assert torch.allclose(out, expected, rtol=1e-5, atol=1e-5) and out.requires_grad == expected.requires_grad
    assert torch.allclose(fast.bn1.running_mean, block.bn1.running_mean)
    assert fast.bn1.num_batches_tracked == block.bn1.num_batches_tracked


def test_a_step_can_go_backwards_twice():
    block, x = ResidualBlock(8, 8), torch.randn(2, 8, 8, 8)
    swap(block)
    loss = block(x).sum()
    loss.backward(retain_graph=True)
    once = block.conv1.weight.grad.clone()
    loss.backward()
    assert torch.allclose(block.conv1.weight.grad, 2 * once)


@pytest.mark.parametrize("inputs", [16, 24])
def test_gradients_can_be_differentiated_again(monkeypatch, inputs):
    """As for a gradient penalty; also where columns are folded and where maps are concatenated."""
    monkeypatch.setattr(worth_it, "FOLDING_PIXELS", 0)
    torch.manual_seed(0)
    block = ResidualBlock(inputs, 16).double().to(memory_format=torch.channels_last)
    block.channel_attention.reduce.requires_grad_(False)
    fast = copy.deepcopy(block)
    swap(fast)
    results = []
    for each, join in ((block, Concatenate()), (fast, FastConcatenate())):
        x = torch.randn(3, inputs, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        loss = each(join(x[:, :4], x[:, 4:])).square().mean()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + 100 * gradient.square().sum()).backward()
        results.append([x.grad, *(p.grad for p in each.parameters() if p.requires_grad), *each.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inputs", [16, 64])
def test_a_jacobian_can_be_computed_at_once(monkeypatch, inputs):
    """By vmap over the backward pass."""
    monkeypatch.setattr(worth_it, "FOLDING_PIXELS", 0)
    block = ResidualBlock(inputs, 16).double().to(memory_format=torch.channels_last)
    fast, x = copy.deepcopy(block), torch.randn(1, inputs, 2, 4, dtype=torch.float64)
    swap(fast)
    expected, found = (
        torch.autograd.functional.jacobian(lambda x, each=each: each(x).mean((2, 3)), x, vectorize=True)
        for each in (block, fast)
    )
    assert torch.allclose(expected, found, rtol=1e-9, atol=1e-12)


def test_forward_mode_derivatives_are_those_of_the_plain_form():
    block, x = ResidualBlock(8, 8).double(), torch.randn(2, 8, 8, 8, dtype=torch.float64)
    fast, found = copy.deepcopy(block), []
    swap(fast)
    for each in (block, fast):
        with forward_ad.dual_level():
            found.append(forward_ad.unpack_dual(each(forward_ad.make_dual(x, torch.ones_like(x)))).tangent)
    assert torch.allclose(*found, rtol=1e-9, atol=1e-12)


def test_weights_that_change_before_a_second_backward_pass_are_noticed():
    block, x = ResidualBlock(8, 8), torch.randn(2, 8, 8, 8, requires_grad=True)
    swap(block)
    (gradient,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with torch.no_grad():
        block.channel_attention.reduce.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient.square().sum().backward()


def test_one_value_of_each_channel_is_refused_as_by_the_plain_form():
    block = ResidualBlock(8, 8).train()
    swap(block)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        block(torch.randn(1, 8, 1, 1))
    assert block.bn1.running_var.isfinite().all()


def test_gradients_of_gradients_under_autocast_are_as_precise_as_the_plain_ones():
    """In bfloat16 the two differ by rounding, so both are compared with float64."""
    torch.manual_seed(0)
    block, x = ResidualBlock(16, 16).to(memory_format=torch.channels_last), torch.randn(4, 16, 16, 16)
    fast, exact = copy.deepcopy(block), copy.deepcopy(block).double()
    swap(fast)
    results = []
    for each in (exact, block, fast):
        inputs = x.to(each.conv1.weight.dtype, memory_format=torch.channels_last).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=each is not exact):
            out = each(inputs)
        (gradient,) = torch.autograd.grad(out.square().mean(), inputs, create_graph=True)
        gradient.square().sum().backward()
        results.append([inputs.grad.double(), *(conv.weight.grad.double() for conv in (each.conv1, each.conv2))])
    for reference, plain, ours in zip(*results, strict=True):
        assert (ours - reference).norm() < 1.1 * (plain - reference).norm()


def test_activation_checkpointing_runs_the_plain_form():
    """It packs what autograd saves, and computes it again, once."""
    torch.manual_seed(0)
    blocks = [ResidualBlock(8, 8), ResidualBlock(8, 8)]
    blocks[1].load_state_dict(blocks[0].state_dict())
    swap(blocks[1])
    x = torch.randn(2, 8, 8, 8)
    for block in blocks:
        checkpoint(block, x, use_reentrant=False).square().mean().backward()
    plain, fast = ([*block.buffers(), *(p.grad for p in block.parameters())] for block in blocks)
    assert blocks[0].bn1.num_batches_tracked == 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(fast, plain, strict=True))


def test_copies_and_pickles_of_twins_are_plain(tmp_path):
    block = ResidualBlock(8, 16).eval()
    swap(block)
    file = tmp_path / "block.pth"
    torch.save(block, file)
    assert b"models.fast" not in file.read_bytes()
    x = torch.randn(1, 8, 8, 8)
    with safe_globals(list(map(resolve_name, get_unsafe_globals_in_checkpoint(file)))):
        loaded = torch.load(file, weights_only=True)
    for made in (copy.deepcopy(block), loaded, pickle.loads(pickle.dumps(block))):
        assert type(made) is ResidualBlock and type(made.bn1) is nn.BatchNorm2d
        assert torch.allclose(made(x), block(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 6, 16, 64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_poolings(monkeypatch, layout, channels, dtype):
    monkeypatch.setattr(worth_it, "FOLDING_PIXELS", 0)
    x = torch.randn(2, channels, 6, 64).to(dtype).to(memory_format=layout)
    exact = x.double()
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    maximum, where = spatial_maximum_and_where(x)
    assert torch.equal(maximum.double(), exact.amax((2, 3), keepdim=True))
    assert torch.equal(spatial_maximum(x), maximum)
    assert torch.equal(x.flatten(2).gather(2, where.flatten(2)), maximum.flatten(2))
    assert torch.equal(channel_maximum(x).double(), exact.amax(1, keepdim=True))
    assert torch.allclose(spatial_mean(x).double(), exact.mean((2, 3), keepdim=True), **close)
    assert torch.allclose(channel_mean(x).double(), exact.mean(1, keepdim=True), **close)
    assert torch.allclose(channel_sum(x).double(), exact.sum(1, keepdim=True), rtol=close["rtol"], atol=0.3)


@pytest.mark.parametrize("channels", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_value_for_each_pixel_as_a_factor(channels, dtype):
    x, maps = torch.randn(2, 1, 6, 5).to(dtype), torch.randn(2, channels, 6, 5).to(dtype)
    assert torch.equal(maps * spread(x, channels), maps * x)


@pytest.mark.parametrize("channels", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_a_map_is_its_pixels_maximum(channels, dtype):
    x = torch.randn(2, channels, 6, 5).to(dtype)
    maximum = x.amax(1, keepdim=True)
    assert torch.equal(where_equal_(x.clone(), maximum), (x == maximum).to(dtype))


@pytest.mark.parametrize(("height", "width"), [(5, 16), (1, 8), (9, 40)])
@pytest.mark.parametrize("size", [3, 7])
def test_a_convolution_by_blocks_of_columns(monkeypatch, height, width, size):
    monkeypatch.setattr(worth_it, "FOLDING_PIXELS", 0)
    torch.manual_seed(0)
    inputs = [torch.randn(2, 1, height, width, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weight = torch.randn(1, 2, size, size, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2, 1, height, width, dtype=torch.float64)
    results = []
    for threshold in (0, 10**9):
        monkeypatch.setattr(worth_it, "FOLDING_PIXELS", threshold)
        out = narrow_conv.conv_two_to_one(*inputs, weight)
        results.append([out, *torch.autograd.grad(out, [*inputs, weight], gradient)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["training", "statistics of the batch", "evaluation"])
@pytest.mark.parametrize("channels", [8, 24])
def test_batch_norm_on_folded_columns_equals_torchs(monkeypatch, mode, channels):
    monkeypatch.setattr(worth_it, "FOLDING_PIXELS", 0)
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels, track_running_stats=mode != "statistics of the batch").double()
    nn.init.uniform_(norm.weight, -1, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    norm.train(mode != "evaluation")
    x = torch.randn(3, channels, 5, 16, dtype=torch.float64).to(memory_format=torch.channels_last) * 3 + 7
    gradient = torch.randn_like(x)
    assert columns.foldable(x) == 64 // channels
    fast = copy.deepcopy(norm)
    fast.__class__ = FastBatchNorm2d
    ours, theirs = run(fast, x, gradient), run(norm, x, gradient)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_folding_columns_moves_nothing():
    x = torch.arange(2 * 8 * 3 * 16.0).view(2, 8, 3, 16).to(memory_format=torch.channels_last)
    folded = columns.fold(x, 4)
    assert folded.shape == (2, 32, 3, 4)
    assert folded.data_ptr() == x.data_ptr()
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(folded[:, 2 * 8 + 5], x[:, 5, :, 2::4])
    assert torch.equal(columns.unfold(folded, 4), x)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(8, 8, 64, 64),  # NCHW
        torch.zeros(8, 64, 64, 64).to(memory_format=torch.channels_last),  # channels enough
        torch.zeros(8, 8, 64, 60).to(memory_format=torch.channels_last),  # 8 does not divide 60
        torch.zeros(1, 8, 64, 64).to(memory_format=torch.channels_last),  # small
    ],
)
def test_maps_that_are_not_folded(x):
    assert columns.foldable(x) == 1


def test_concatenations_gradients_are_maps_of_their_own(layout):
    maps = [torch.randn(2, width, 4, 4).to(memory_format=layout).requires_grad_() for width in (8, 16)]
    gradient = torch.randn(2, 24, 4, 4).to(memory_format=layout)
    assert torch.equal(FastConcatenate()(*maps), Concatenate()(*maps))
    ours = torch.autograd.grad(FastConcatenate()(*maps), maps, gradient)
    assert all(torch.equal(a, b) for a, b in zip(ours, gradient.split([8, 16], dim=1), strict=True))
    assert all(a.is_contiguous(memory_format=layout) for a in ours)
