"""Compiled passes equal what torch computes, and are done without where they cannot be had."""

from __future__ import annotations

import copy
import shutil
import sys

import pytest
import torch

from models.blocks import ResidualBlock
from models.fast import native, norm_passes, packed_network
from models.fast.native import prediction
from models.fast.native.training import Passes
from models.fast.norm_passes import CompiledNorm, norm_pass
from models.fast.packed_conv import can_pack
from models.fast.twins import swap
from models.nested import up
from utils.benchmarking.operator_times import OperatorTimes

pytestmark = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16")
needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="no C++ compiler is here"
)


@pytest.fixture
def library():
    """A library that has not been looked for yet; afterwards the usual one again."""
    native.library.cache_clear()
    yield native.library
    native.library.cache_clear()


def attention_inputs(channels, shape, dtype=torch.float32):
    """What `attend` takes, of random numbers."""
    torch.manual_seed(0)
    y, shortcut = (torch.randn(2, channels, *shape).to(memory_format=torch.channels_last) for _ in range(2))
    reduce, expand = torch.randn(channels // 8, channels), torch.randn(channels, channels // 8)
    kernel = torch.randn(1, 2, 7, 7) / 7 / channels**0.5
    return y.to(dtype), shortcut, reduce / channels**0.5, expand, kernel


def attended(y, shortcut, reduce, expand, kernel):
    """The equations, in float64."""
    y, shortcut, reduce, expand, kernel = (each.double() for each in (y, shortcut, reduce, expand, kernel))
    pooled = y.mean((2, 3)), y.amax((2, 3))
    z = y * torch.sigmoid(sum(torch.relu(each @ reduce.T) @ expand.T for each in pooled))[:, :, None, None]
    over_channels = torch.cat([z.sum(1, keepdim=True), z.amax(1, keepdim=True)], dim=1)
    pixels = torch.sigmoid(torch.nn.functional.conv2d(over_channels, kernel, padding=3))
    return torch.relu(z * pixels + shortcut)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("shape", [(9, 16), (16, 18), (5, 40), (1, 64), (33, 130)])
@pytest.mark.parametrize("channels", native.CHANNELS)
def test_compiled_equals_the_equations(channels, shape):
    inputs = attention_inputs(channels, shape)
    expected = attended(*inputs)
    out, exact = prediction.attend(*inputs, last=True)
    assert out is exact
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-5)

    inputs = attention_inputs(channels, shape, torch.bfloat16)
    expected = attended(*inputs)
    out, exact = prediction.attend(*inputs, last=False)
    assert torch.allclose(exact.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out, exact.bfloat16())
    out_alone, nothing = prediction.attend(*inputs, last=True)
    assert torch.equal(out_alone, out) and nothing is None


@needs_compiler
@torch.inference_mode()
def test_the_number_of_threads_changes_rounding_alone():
    inputs = attention_inputs(16, (40, 64))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(prediction.attend(*inputs, last=True)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(*results, rtol=1e-5, atol=1e-6)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none_do_not_vanish(dtype):
    y, *others = attention_inputs(16, (8, 16), dtype)
    y[1, 3, 2, 5] = float("nan")
    out, _ = prediction.attend(y, *others, last=True)
    assert out[1].isnan().all() and not out[0].isnan().any()


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("channels, shape", [(24, (8, 16)), (16, (8, 14)), (8, (8, 17))])
def test_other_maps_are_left_to_torch(channels, shape):
    assert prediction.attend(*attention_inputs(channels, shape), last=True) is None


@needs_compiler
@torch.inference_mode()
def test_numbers_that_do_not_fit_the_map_are_left_to_torch():
    y, shortcut, reduce, expand, kernel = attention_inputs(16, (8, 16))
    assert prediction.attend(y, shortcut, reduce, expand, kernel, last=True) is not None
    for numbers in (
        (shortcut[:, :1], reduce, expand, kernel),
        (shortcut, reduce[:, :8], expand, kernel),
        (shortcut, reduce, expand[:1], kernel),
        (shortcut, reduce, expand, kernel.expand(16, -1, -1, -1)),
    ):
        assert prediction.attend(y, *numbers, last=True) is None


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_give_the_same_with_a_compiler_and_without(monkeypatch, library, dtype):
    torch.manual_seed(0)
    blocks = [ResidualBlock(24, 16), ResidualBlock(16, 16)]
    for block in blocks:
        block.eval().requires_grad_(False)
    x = torch.randn(2, 24, 16, 32).to(memory_format=torch.channels_last)
    expected = blocks[1](blocks[0](x))
    node = packed_network.PackedNode(blocks, dtype)
    error = 1e-5 if dtype == torch.float32 else 0.02
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        with_compiler = node(x)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        library.cache_clear()
        assert library("prediction") is None
        without = node(x)
    for out in (with_compiler, without):
        assert out.dtype == dtype
        assert (out - expected).abs().max() < error * expected.abs().max()


@needs_compiler
def test_compiled_once_and_kept_beside_the_source(monkeypatch, library, tmp_path):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    (tmp_path / "one.cpp").write_text('#include "one.h"\nextern "C" int one() { return ONE; }')
    (tmp_path / "one.h").write_text("#define ONE 1")
    assert library("one").one() == 1
    (kept,) = (tmp_path / "__pycache__").iterdir()
    assert kept.suffix == ".so"
    library.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(native.subprocess, "run", None)  # a second compilation would fail
        assert library("one").one() == 1
    (tmp_path / "one.h").write_text("#define ONE 11")
    library.cache_clear()
    assert library("one").one() == 11


@needs_compiler
def test_compiled_for_this_process_alone_where_nothing_can_be_kept(monkeypatch, library, tmp_path):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one.cpp"))
    (tmp_path / "one.cpp").write_text('extern "C" int one() { return 1; }')
    (tmp_path / "__pycache__").touch()  # no folder can be made; root may write to all others
    assert library("one").one() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["__pycache__", "one.cpp"]


@needs_compiler
def test_what_does_not_compile_is_done_without(monkeypatch, library, tmp_path):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    (tmp_path / "one.cpp").write_text("no C++")
    assert library("one") is None
    assert not list((tmp_path / "__pycache__").iterdir())


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 3), (16, 40)])
def test_joined_is_upsampled_and_concatenated(size, dtype):
    torch.manual_seed(0)
    large, layout = (2 * size[0], 2 * size[1]), torch.channels_last
    left, other = (torch.randn(2, channels, *large).to(dtype, memory_format=layout) for channels in (24, 3))
    below = torch.randn(2, 32, *size).to(dtype, memory_format=layout)
    for others in [], [other], [other, left]:
        joined = prediction.join(left, below, others)
        assert joined.dtype == dtype and joined.is_contiguous(memory_format=torch.channels_last)
        expected = torch.cat([left, up(below.float()), *others], dim=1)
        rounding = 2**-8 if dtype == torch.bfloat16 else 1e-6
        assert torch.allclose(joined.float(), expected, rtol=rounding, atol=1e-6)
        unchanged = torch.cat([joined[:, :24], joined[:, 56:]], dim=1)
        assert torch.equal(unchanged, torch.cat([left, *others], dim=1))


@torch.inference_mode()
@needs_compiler
@pytest.mark.parametrize("change", [lambda x: x.double(), lambda x: x[:, :8], lambda x: x.bfloat16(), lambda x: x])
def test_what_cannot_be_joined_is_left_to_torch(change):
    left = torch.randn(1, 8, 8, 8).to(memory_format=torch.channels_last)
    below = torch.randn(1, 16, 4, 4)
    assert prediction.join(left, change(below), []) is None
    assert prediction.join(left, below.to(memory_format=torch.channels_last), []) is not None


@torch.inference_mode()
@needs_compiler
@pytest.mark.parametrize(
    ("left", "below", "other"),
    [
        ((1, 8, 15, 16), (1, 16, 7, 8), (1, 8, 15, 16)),
        ((2, 8, 16, 16), (1, 16, 8, 8), (2, 8, 16, 16)),
        ((1, 8, 16, 16), (1, 16, 4, 4), (1, 8, 16, 16)),
        ((1, 8, 16, 16), (1, 16, 16, 16), (1, 8, 16, 16)),
        ((1, 8, 16, 16), (1, 16, 8, 8), (1, 8, 8, 16)),
        ((2, 8, 16, 16), (2, 16, 8, 8), (1, 8, 16, 16)),
    ],
)
def test_maps_whose_sizes_do_not_fit_are_left_to_torch(left, below, other):
    """Which refuses them; the kernel would read outside of them."""
    left, below, other = (torch.randn(shape).to(memory_format=torch.channels_last) for shape in (left, below, other))
    assert prediction.join(left, below, [other]) is None


def trained_step(block, x, gradient):
    """Output, gradient of the input, gradients of the parameters, batch norms' statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = block(x)
    out.backward(gradient)
    results = {"out": out, "x": x.grad, **dict(block.named_buffers())}
    return results | {name: parameter.grad for name, parameter in block.named_parameters()}


def a_step(inputs, channels, size=(16, 40)):
    torch.manual_seed(0)
    block = ResidualBlock(inputs, channels).to(memory_format=torch.channels_last)
    for norm in (block.bn1, block.bn2):
        torch.nn.init.uniform_(norm.weight, -1, 2)  # where it is negative, the smallest x is the largest y
        torch.nn.init.uniform_(norm.bias, -1, 1)
    x, gradient = (torch.randn(5, each, *size).to(memory_format=torch.channels_last) for each in (inputs, channels))
    return block, x, gradient


@needs_compiler
@pytest.mark.parametrize("inputs, channels", [(8, 8), (24, 16), (32, 32), (72, 64), (64, 128), (256, 256)])
def test_a_compiled_training_step_equals_the_plain_one(monkeypatch, inputs, channels):
    block, x, gradient = a_step(inputs, channels)
    precise = copy.deepcopy(block).double()
    monkeypatch.setattr(norm_passes, "TorchNorm", None)  # it would do it otherwise
    assert swap(block)
    ours = trained_step(block, x, gradient)
    theirs = trained_step(precise, x.double(), gradient.double())
    assert ours.keys() == theirs.keys() and len(ours) >= 19
    for name, expected in theirs.items():
        biases = name.endswith(("conv1.bias", "conv2.bias", "shortcut.0.bias"))  # zero, up to rounding
        error = (ours[name] - expected).abs().max() / (1 if biases else expected.abs().max())
        assert error < 2e-5, name


@needs_compiler
def test_the_default_type_is_not_that_of_the_kernels_numbers(monkeypatch):
    block, x, gradient = a_step(16, 16)
    inputs = attention_inputs(16, (8, 16))
    blocks = [block, copy.deepcopy(block)]
    monkeypatch.setattr(norm_passes, "TorchNorm", None)
    assert swap(block) and swap(blocks[1])
    expected = trained_step(block, x, gradient), prediction.attend(*inputs, last=True)[0]
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = trained_step(blocks[1], x, gradient), prediction.attend(*inputs, last=True)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(value, expected[0][name]) for name, value in found[0].items())


@needs_compiler
def test_a_compiled_training_step_is_as_exact_in_bfloat16(monkeypatch):
    block, x, gradient = a_step(16, 16)
    torchs = copy.deepcopy(block)
    expected = trained_step(copy.deepcopy(block), x, gradient)["out"]
    swap(block), swap(torchs)
    with torch.autocast("cpu", torch.bfloat16):
        ours = trained_step(block, x, gradient.bfloat16())
        monkeypatch.setattr(Passes, "suit", lambda x: False)
        theirs = trained_step(torchs, x, gradient.bfloat16())
    assert ours["out"].dtype == torch.bfloat16
    error, torch_error = ((each["out"] - expected).square().mean().sqrt() for each in (ours, theirs))
    assert 0 < error <= 1.1 * torch_error < 0.05


@needs_compiler
def test_a_compiled_training_step_is_the_same_with_every_number_of_threads():
    block, _, gradient = a_step(16, 16)
    normed = norm_pass(gradient, block.bn1, attended=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = norm_pass(gradient, block.bn1, attended=True)
    finally:
        torch.set_num_threads(before)
    assert isinstance(normed, CompiledNorm)
    for name in ("numbers", "extreme", "where", "rstd"):
        assert torch.equal(getattr(normed, name), getattr(again, name))


@needs_compiler
@pytest.mark.parametrize("size", [(4, 4), (8, 40), (160, 128)])  # fewer pixels than pieces, some, many
def test_statistics_far_from_zero(size):
    torch.manual_seed(0)
    x = (1000 + torch.randn(3, 16, *size)).to(memory_format=torch.channels_last)
    norm = ResidualBlock(16, 16).bn1
    normed = CompiledNorm(x, norm, attended=True)
    variance, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    assert torch.allclose(normed.mean.double(), mean, rtol=5e-7)
    assert torch.allclose(normed.rstd.double(), (variance + norm.eps).rsqrt(), rtol=1e-4)
    assert torch.equal(normed.extreme, x.amax((2, 3)))
    assert torch.equal(x.flatten(2).gather(2, normed.where[..., None].long())[..., 0], normed.extreme)


@needs_compiler
@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:, :, :, :39].contiguous(memory_format=torch.channels_last),  # 16 * 39 pixels are 16s, 15 * 39 none
        lambda x: x.contiguous(),
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: torch.cat([x, x[:, :8]], dim=1).contiguous(memory_format=torch.channels_last),
    ],
)
def test_other_maps_have_no_passes(other):
    x = torch.randn(5, 16, 15, 40).to(memory_format=torch.channels_last)
    assert not Passes.suit(other(x)) and Passes.suit(x[:, :, :14].contiguous(memory_format=torch.channels_last))


@needs_compiler
def test_passes_stand_in_a_profile():
    block, x, gradient = a_step(16, 16)
    swap(block)
    with OperatorTimes(torch.device("cpu")) as operators:
        trained_step(block, x, gradient)
    calls, seconds = operators.times["srs_norm_relu", "5x16x16x40"]
    assert calls == 2 and seconds > 0  # forwards, and again backwards
    assert native.observer is None
