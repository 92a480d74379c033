"""The compiled attention equals the one that torch computes, and is done without where it cannot be had."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch

from models import native, packed_block
from models.blocks import ResidualBlock
from models.folding import fold_batch_norms
from models.forms import plain_forms
from models.packed import can_pack

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
    """What `native.attend` takes, of random numbers."""
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
    out, exact = native.attend(*inputs, last=True)
    assert out is exact
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-5)

    inputs = attention_inputs(channels, shape, torch.bfloat16)
    expected = attended(*inputs)
    out, exact = native.attend(*inputs, last=False)
    assert torch.allclose(exact.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out, exact.bfloat16())
    out_alone, nothing = native.attend(*inputs, last=True)
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
            results.append(native.attend(*inputs, last=True)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(*results, rtol=1e-5, atol=1e-6)


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none_do_not_vanish(dtype):
    y, *others = attention_inputs(16, (8, 16), dtype)
    y[1, 3, 2, 5] = float("nan")
    out, _ = native.attend(y, *others, last=True)
    assert out[1].isnan().all() and not out[0].isnan().any()


@needs_compiler
@torch.inference_mode()
@pytest.mark.parametrize("channels, shape", [(24, (8, 16)), (16, (8, 14)), (8, (8, 17))])
def test_other_maps_are_left_to_torch(channels, shape):
    assert native.attend(*attention_inputs(channels, shape), last=True) is None


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_give_the_same_with_a_compiler_and_without(monkeypatch, library, dtype):
    torch.manual_seed(0)
    blocks = [ResidualBlock(24, 16), ResidualBlock(16, 16)]
    for block in blocks:
        block.eval().requires_grad_(False)
        fold_batch_norms(block)
    x = torch.randn(2, 24, 16, 32).to(memory_format=torch.channels_last)
    with plain_forms():
        expected = blocks[1](blocks[0](x))
    node = packed_block.PackedNode(blocks, dtype)
    error = 1e-5 if dtype == torch.float32 else 0.02
    with_compiler = node(x)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    library.cache_clear()
    assert library() is None
    for out in (with_compiler, node(x)):
        assert out.dtype == dtype
        assert (out - expected).abs().max() < error * expected.abs().max()


@needs_compiler
def test_compiled_once_and_kept_beside_the_source(monkeypatch, library, tmp_path):
    monkeypatch.setattr(native, "SOURCE", tmp_path / "attention.cpp")
    native.SOURCE.write_text('extern "C" int srs_scratch() { return 0; } extern "C" int srs_attend() { return 0; }')
    assert library() is not None
    (kept,) = (tmp_path / "__pycache__").iterdir()
    assert kept.suffix == ".so"
    library.cache_clear()
    monkeypatch.setattr(native.subprocess, "run", None)  # a second compilation would fail
    assert library() is not None


@needs_compiler
def test_what_does_not_compile_is_done_without(monkeypatch, library, tmp_path):
    monkeypatch.setattr(native, "SOURCE", tmp_path / "attention.cpp")
    native.SOURCE.write_text("no C++")
    assert library() is None
    assert not list((tmp_path / "__pycache__").iterdir())
