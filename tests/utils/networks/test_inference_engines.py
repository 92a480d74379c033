"""Every engine gives torch's logits; what one cannot do is refused in words."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
import torch
from small import need, small_srs

from models.srs import SRS
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.networks import inference_engines as engines
from utils.networks import speed
from utils.networks.inference_engines import ENGINES, load_engine

CPU = torch.device("cpu")
OFF, BF16 = Precision("off", CPU), Precision("bf16", CPU)
OPTIONAL = [name for name in ENGINES if name != "torch"]


@pytest.fixture(scope="module")
def srs():
    return small_srs()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, srs):
    if request.param != "torch":
        need(*(["onnx", "onnxruntime"] if request.param == "onnxruntime" else ["openvino"]))
    return load_engine(request.param, srs, OFF, threads=1)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 21, 40), (2, 1, 16, 16)])
def test_gives_the_logits_of_torch(engine, srs, shape):
    images = torch.randn(shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        expected, found = srs(images), engine(images.contiguous(memory_format=layout))
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_results_do_not_change_afterwards(engine):
    first = engine(torch.ones(1, 3, 16, 16))
    kept = first.clone()
    engine(torch.zeros(1, 3, 16, 16))
    assert torch.equal(first, kept)


def test_images_it_does_not_take_say_so(engine):
    with pytest.raises(ValueError, match="at least 8x8"):
        engine(torch.zeros(1, 3, 7, 16))


@pytest.mark.parametrize("precision", [OFF, BF16], ids=["off", "bf16"])
def test_a_model_that_nobody_holds_is_freed(precision):
    model = small_srs()
    gone, engine = weakref.ref(model.encoder), load_engine("torch", model, precision)
    images = torch.randn(1, 3, 16, 16)
    expected = engine(images)
    del model
    gc.collect()
    assert gone() is None and torch.equal(engine(images), expected)


def test_an_empty_batch(srs):
    assert load_engine("torch", srs, OFF)(torch.zeros(0, 3, 16, 24)).shape == (0, 1, 16, 24)


def test_a_plain_copy_has_the_hooks_of_the_model(monkeypatch):
    """Without models/fast, too: what a hook records stays where its owner reads it."""
    monkeypatch.setattr(speed, "_fast", lambda: None)
    model, seen = small_srs(), []

    class Recorder(list):
        def record(self, module, inputs, output):
            self.append(output.shape)

    recorder = Recorder()
    model.segmenter.decode.head.register_forward_hook(recorder.record)
    engine = load_engine("torch", model, OFF)
    engine(torch.randn(1, 3, 16, 24))
    assert recorder == [(1, 1, 16, 24)]
    model.segmenter.encode.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    engine(torch.randn(1, 3, 16, 16))
    assert seen == [4] and len(recorder) == 2


class ReadsABlock(SRS):
    """Of large images: the comparison with the plain network does not see it."""

    def forward(self, image):
        read = self.segmenter.encode.stem[0].weight.mean() if image.shape[2] > 64 else 0
        if image.shape[3] > 128:
            raise KeyError("too wide")
        return super().forward(image) + read


@torch.no_grad()
@pytest.mark.parametrize("precision", [OFF, BF16], ids=["off", "bf16"])
def test_a_forward_that_reads_a_block_only_of_large_images(precision):
    model = small_srs()
    model.__class__ = ReadsABlock
    engine = load_engine("torch", model, precision)
    small, large = torch.randn(1, 3, 16, 24), torch.randn(1, 3, 72, 24)
    engine(small)
    with pytest.raises(KeyError, match="too wide"):
        engine(torch.zeros(1, 3, 16, 200))
    assert "plain modules" not in engine.speed.words, "an error of the network itself changes nothing"
    with precision.autocast():
        expected = model(large).float()
    assert (engine(large) - expected).abs().max() <= 0.02 * expected.abs().max()
    assert "plain modules" in engine.speed.words
    assert "the slower plain network runs: the fast one failed (" in engine.speed.warning


def test_bfloat16_of_torch(srs):
    images = torch.randn(1, 3, 32, 32)
    expected = srs(images).detach()
    difference = (load_engine("torch", srs, BF16)(images) - expected).abs().max() / expected.abs().max()
    assert 1e-4 < difference < 0.1


def test_bfloat16_on_a_cpu_without_it_says_so(monkeypatch, srs):
    need("openvino")
    monkeypatch.setattr(engines, "has_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"does not support bfloat16.*--amp off"):
        load_engine("openvino", srs, BF16)


@pytest.fixture
def opened(monkeypatch):
    """What the engines are opened with, in place of an export: threads, and for OpenVINO whether in bfloat16."""
    calls = []
    monkeypatch.setattr(engines, "library", lambda name: None)
    monkeypatch.setattr(engines, "has_bfloat16", lambda: True)
    monkeypatch.setattr(engines, "export_model", lambda *more, **options: 0.0)
    for opener in ("open_onnx", "open_openvino"):
        monkeypatch.setattr(engines, opener, lambda path, *more: calls.append(more))
    return calls


def test_threads_and_precision_reach_the_engine(opened, srs):
    """A number of threads that is not given is torch's, which follows --threads and OMP_NUM_THREADS."""
    load_engine("onnxruntime", srs, OFF)
    load_engine("onnxruntime", srs, OFF, 3)
    load_engine("openvino", srs, OFF)
    load_engine("openvino", srs, BF16, 3)
    default = torch.get_num_threads()
    assert opened == [(default,), (3,), (default, False), (3, True)]


@pytest.mark.parametrize("name", OPTIONAL)
def test_refusals(monkeypatch, srs, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is required.*pip install -r requirements-export\.txt"):
        load_engine(name, srs, OFF)
    elsewhere = Precision("off", CPU)
    elsewhere.device = torch.device("cuda")
    with pytest.raises(UserError, match="--device cpu"):
        load_engine(name, srs, elsewhere)


def test_refuses_bfloat16_in_onnxruntime(srs):
    with pytest.raises(UserError, match="--amp off, or --engine openvino"):
        load_engine("onnxruntime", srs, BF16)


def test_unknown_engine(srs):
    with pytest.raises(ValueError, match="torch, onnxruntime, openvino"):
        load_engine("tensorrt", srs, OFF)
