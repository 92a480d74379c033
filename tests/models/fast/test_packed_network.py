"""Packed networks, and what they are made of, equal the plain ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from models import fast
from models.fast import worth_it
from models.fast.narrow_conv import _columns, conv_two_to_one
from models.fast.packed_conv import PackedConv2d, can_pack
from models.fast.pooling import spatial_maximum, spatial_mean
from models.fast.twins import FastDown, FastDPConv
from models.fast.winograd import WinogradConv2d

needs_packing = pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no oneDNN operators")


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


@needs_packing
@torch.inference_mode()
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "geometry", [{}, {"padding": 1}, {"padding": (0, 1), "stride": (3, 1)}, {"padding": 2, "dilation": 2}]
)
def test_a_packed_convolution_is_the_convolution(geometry, relu):
    conv = nn.Conv2d(8, 16, 3, **geometry)
    packed = PackedConv2d(conv.weight, conv.bias, torch.float32, conv.stride, conv.padding, conv.dilation, relu)
    for size in (13, 18), (40, 24):  # the weights were packed without knowing
        x = torch.randn(2, 8, *size)
        expected = conv(x).relu() if relu else conv(x)
        assert relative(packed(x), expected) < 1e-6


@needs_packing
@torch.inference_mode()
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"), [(1, 128, 64, 32), (2, 128, 52, 43), (1, 128, 8, 256)]
)
def test_winograd_is_the_convolution(batch, channels, height, width, monkeypatch):
    monkeypatch.setattr(PackedConv2d, "forward", checked := _counting(PackedConv2d.forward))
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    assert WinogradConv2d.suits(conv, torch.float32)
    x = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
    assert height * width * channels**2 >= worth_it.WINOGRAD_PRODUCTS
    expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert relative(WinogradConv2d(conv)(x), expected) < 1e-5
    assert checked.calls == 6 * batch
    assert relative(WinogradConv2d(conv, relu=True)(x), expected.relu()) < 1e-5
    assert relative(WinogradConv2d(conv)(x.contiguous()), expected) < 1e-5


def _counting(forward):
    def counted(*args):
        counted.calls += 1
        return forward(*args)

    counted.calls = 0
    return counted


@needs_packing
@torch.inference_mode()
def test_other_maps_go_the_direct_way(monkeypatch):
    monkeypatch.setattr(PackedConv2d, "forward", checked := _counting(PackedConv2d.forward))
    conv = nn.Conv2d(64, 64, 3, padding=1)
    for calls, size in enumerate([(16, 16), (129, 128)], start=1):  # too few pixels; 129 is not a multiple of 4
        x = torch.randn(1, 64, *size)
        assert relative(WinogradConv2d(conv)(x), conv(x)) < 1e-5
        assert checked.calls == calls


@pytest.mark.parametrize(
    ("conv", "dtype"),
    [
        (nn.Conv2d(64, 64, 3), torch.float32),  # it does not keep the size
        (nn.Conv2d(64, 64, 3, padding=2, dilation=2), torch.float32),
        (nn.Conv2d(64, 64, 3, padding=1, stride=2), torch.float32),
        (nn.Conv2d(64, 64, 1), torch.float32),
        (nn.Conv2d(64, 32, 3, padding=1), torch.float32),  # it would not pay
        (nn.Conv2d(64, 64, 3, padding=1), torch.bfloat16),  # too few digits
    ],
)
def test_winograd_does_not_suit_every_convolution(conv, dtype):
    assert not WinogradConv2d.suits(conv, dtype)


@needs_packing
@pytest.mark.parametrize("encoder_bn", ["frozen", "batch"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 1, 40, 75)])
def test_a_packed_network_gives_the_same_logits(encoder_bn, shape):
    torch.manual_seed(0)
    srs = models.build_srs("srs_tiny", encoder_bn=encoder_bn).eval()
    for module in srs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    image = torch.randn(shape)
    with torch.inference_mode():
        expected = srs(image)
        before = {name: value.clone() for name, value in srs.state_dict().items()}
        network, found = fast.for_prediction(srs, torch.float32)
        assert not any(
            type(module) in (nn.Conv2d, models.blocks.ResidualBlock) for module in network.segmenter.modules()
        )
        assert found.fast["ResidualBlock"] == 41 and not found.plain and not found.why
        assert relative(network(image), expected) < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in srs.state_dict().items())
    left = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert not [name for name in left if encoder_bn == "frozen" or not name.startswith("encoder.")]


@torch.inference_mode()
@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16")
@pytest.mark.parametrize("encoder_bn", ["frozen", "batch"])
def test_the_stem_is_in_float32(encoder_bn):
    """As in the plain network: bfloat16 has steps of 0.001 where the maps of the authors' normalisation are."""
    srs = models.build_srs("srs_tiny", encoder_bn=encoder_bn).eval()
    network, _ = fast.for_prediction(srs, torch.bfloat16)
    image = 0.0004 + 0.003 * torch.randn(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for part in ("encoder", "segmenter.encode"):
            stems = [of.get_submodule(part).stem for of in (srs, network)]
            with torch.autocast("cpu", enabled=False):
                expected, found = (stem(image) for stem in stems)
            assert found.dtype == torch.float32 and (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16")
def test_a_packed_bfloat16_network_is_closer_to_float32_than_autocast():
    torch.manual_seed(0)
    srs = models.build_srs("srs_tiny").eval()
    image = torch.randn(2, 3, 64, 64)
    expected = srs(image)
    network, _ = fast.for_prediction(srs, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = relative(srs(image), expected)
        logits = network(image)
    assert logits.dtype == torch.bfloat16
    assert 0 < relative(logits, expected) < autocast < 0.1


def test_without_the_operators_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(fast, "can_pack", lambda dtype: False)
    srs = models.build_srs("srs_tiny")
    assert fast.for_prediction(srs, torch.float32)[0] is srs


@torch.inference_mode()
def test_a_single_images_kernel_is_built():
    dpconv = models.DPConv(16, 8)
    x, deep = torch.randn(2, 16, 6, 6), torch.randn(2, 8, 6, 6)
    expected = [dpconv(x, deep), dpconv(x[:1], deep[:1])]
    dpconv.__class__ = FastDPConv
    assert torch.equal(dpconv(x, deep), expected[0])
    found = dpconv(x[:1], deep[:1])
    assert relative(found, expected[1]) < 1e-5 and not torch.equal(found, expected[1])


def test_what_prediction_has_made_serves_training():
    first, second = torch.randn(2, 1, 1, 256, 128)
    weight = torch.randn(1, 2, 7, 7, requires_grad=True)
    _columns.cache_clear()
    with torch.inference_mode():
        conv_two_to_one(first, second, weight)
    conv_two_to_one(first, second, weight).sum().backward()
    assert weight.grad is not None


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(2, 16, 24, 40), (1, 64, 8, 8), (1, 8, 6, 10), (1, 600, 4, 6)])
def test_poolings_without_gradients(shape):
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    assert torch.equal(spatial_maximum(x), x.amax((2, 3), keepdim=True))
    assert torch.allclose(spatial_mean(x), x.mean((2, 3), keepdim=True), rtol=1e-5, atol=1e-6)
    assert torch.equal(FastDown()(x), F.max_pool2d(x, 2))


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU or torch does not pack bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_winograd_is_in_float32_networks_alone(dtype):
    """So the comparison of a bfloat16 network, which is made in float32, leaves Winograd out."""
    network, found = fast.for_prediction(models.build("srs").eval(), dtype)
    assert found.why is None
    assert any(isinstance(module, WinogradConv2d) for module in network.modules()) == (dtype == torch.float32)
