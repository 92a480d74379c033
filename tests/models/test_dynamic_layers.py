"""The layers that can replace DPConv: counts, shapes, gradients, equations, export."""

from __future__ import annotations

import math
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small import need
from torch.utils.flop_counter import FlopCounterMode

import models
from models import DPConv2d
from models.per_sample import convolve_per_sample

# (parameters, MACs) of the layer in srs at 256x256: C = 256, D = 64, maps of 32x32.
COUNTS = {
    "conv": (589_824, 603_979_776),
    "conv_scaled": (589_824, 603_979_776),
    "gate": (2_560, 2_560),
    "condconv": (4_719_112, 608_698_880),
    "odconv": (2_369_261, 606_348_496),
    "dyconv": (2_361_412, 606_341_184),
    "dcd": (607_760, 612_639_744),
    "film": (33_280, 32_768),
}
WITH_KERNELS = ("condconv", "odconv", "dyconv", "dcd")
WITH_CODE = (*WITH_KERNELS, "gate", "film")


def build(name, channels=16, deep_channels=8):
    torch.manual_seed(0)
    return import_module(f"models.dynamic.{name}").build(channels, deep_channels)


def inputs(batch=3, channels=16, deep_channels=8, size=(6, 7), dtype=torch.float32, like=False):
    """x and deep; deep has another size than x, or the same if `like`."""
    torch.manual_seed(1)
    x, deep = torch.randn(batch, channels, *size), torch.randn(batch, deep_channels, *(size if like else (3, 5)))
    return x.to(dtype), deep.to(dtype)


def parameters(layer):
    return sum(parameter.numel() for parameter in layer.parameters())


def macs(layer, x, deep):
    with FlopCounterMode(display=False) as counter:
        layer(x, deep)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    layer = build(name, 256, 64)
    assert (parameters(layer), macs(layer, *inputs(1, 256, 64, (32, 32)))) == COUNTS[name]


def test_the_table_of_the_docs():
    """docs/explanation/method.md: parameters and MACs of every layer, in srs and in srs_tiny."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "explanation" / "method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| ([\d,]+) \| ([\d.]+) \| ([\d,]+) \| ([\d.]+) \|$", page, re.M)
    assert {name for name, *_ in rows} == set(models.layers())
    for name, *cells in rows:
        found = []
        for channels in (256, 64):
            layer = models.build_layer(name, channels, 64)
            found += [
                f"{parameters(layer):,}",
                f"{macs(layer, *inputs(1, channels, 64, (32, 32), like=True)) / 1e6:.2f}",
            ]
        assert cells == found, name


@pytest.mark.parametrize("channels", [64, 256])
@pytest.mark.parametrize(
    ("name", "parameters_of", "macs_of"),
    [
        # C channels of x and of the deep feature alike, as the papers have it; maps of 32x32; after the papers' text.
        ("condconv", lambda c: 8 * 9 * c * c + 8 * (c + 1), lambda c: 9 * c * c * (1024 + 8) + 8 * c),
        ("dyconv", lambda c: 4 * (9 * c * c + c) + c * c // 4 + c + 4, lambda c: 9 * c * c * 1028 + 5 * c + c * c // 4),
        (
            "odconv",
            lambda c: 4 * 9 * c * c + 16 * (c + 1) + 17 * (9 + 2 * c + 4),
            lambda c: 9 * c * c * 1028 + 16 * (c + 9 + 2 * c + 4),
        ),
        ("gate", lambda c: 2 * c * max(c // 16, 8), lambda c: 2 * c * max(c // 16, 8)),
    ],
)
def test_counts_by_the_papers_formulas(name, parameters_of, macs_of, channels):
    layer = build(name, channels, channels)
    assert parameters(layer) == parameters_of(channels)
    assert macs(layer, *inputs(1, channels, channels, (32, 32))) == macs_of(channels)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_and_one_image_at_a_time(name, batch):
    layer = build(name)
    x, deep = inputs(batch)
    term = layer(x, deep)
    assert term.shape == x.shape and term.abs().max() > 0
    layer.to(memory_format=torch.channels_last)  # as training does
    alone = torch.cat([layer(x[i : i + 1], deep[i : i + 1]) for i in range(batch)])
    torch.testing.assert_close(term, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.eval()(x, deep), layer.train()(x, deep)), "the same in training and in evaluation"


@pytest.mark.parametrize("name", COUNTS)
def test_gradients(name):
    layer = build(name, 8, 8).double()
    x, deep = inputs(2, 8, 8, (3, 4), torch.float64)
    names, values = zip(*layer.named_parameters(), strict=True)
    values = [value.detach().requires_grad_() for value in values]

    def call(x, deep, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, deep))

    reads = name in WITH_CODE
    assert torch.autograd.gradcheck(call, (x.requires_grad_(), deep.requires_grad_(reads), *values), fast_mode=True)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("batch", [1, 2])
def test_bfloat16(name, batch):
    layer = build(name)
    x, deep = inputs(batch)
    expected = layer(x, deep)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x, deep)
    for found in (mixed, layer.bfloat16()(x.bfloat16(), deep.bfloat16())):
        assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_image_matters_through_the_code_alone(name):
    layer = build(name)
    x, deep = inputs(2)
    code = layer.code(deep)
    assert code.ndim == 2 and (code[0] - code[1]).abs().max() > 1e-4
    assert torch.equal(layer.with_code(x, code), layer(x, deep))
    assert not torch.allclose(layer.with_code(x, code.flip(0)), layer(x, deep), atol=1e-6)


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_is_a_convolution_with_the_kernels_that_it_shows(name):
    layer = build(name).double()
    x, deep = inputs(3, dtype=torch.float64)
    kernels = layer.kernels(deep)
    assert kernels.shape == (3, 16, 16, 3, 3)
    expected = torch.cat([F.conv2d(x[i : i + 1], kernels[i], padding=1) for i in range(3)])
    if name == "dyconv":
        expected = expected + (layer.code(deep) @ layer.biases)[..., None, None]
    torch.testing.assert_close(layer(x, deep), expected)


def linear(module, vector):
    """A linear layer, number by number."""
    bias = module.bias if module.bias is not None else torch.zeros(module.out_features, dtype=vector.dtype)
    return torch.stack([(row * vector).sum() + b for row, b in zip(module.weight, bias, strict=True)])


def pooled(deep):
    return deep.flatten(1).sum(1) / deep[0].numel()


def condconv(layer, x, deep):
    """A sum of the experts' results, which is the same as the result of the summed experts."""
    a = 1 / (1 + torch.exp(-linear(layer.routing, pooled(deep))))
    return sum(a[i] * F.conv2d(x, expert, padding=1) for i, expert in enumerate(layer.experts.view(8, 16, 16, 3, 3)))


def odconv(layer, x, deep):
    """The attentions where they may be on the maps: a_c times x before, a_f times the result after the convolution."""
    h = linear(layer.squeeze, pooled(deep)).clamp(min=0)
    a_s, a_c, a_f = (1 / (1 + torch.exp(-linear(head, h))) for head in (layer.spatial, layer.input, layer.output))
    w = torch.exp(linear(layer.mixture, h))
    w = w / w.sum()
    x = x * a_c[:, None, None]
    y = sum(
        w[i] * F.conv2d(x, kernel * a_s.view(3, 3), padding=1)
        for i, kernel in enumerate(layer.weights.view(4, 16, 16, 3, 3))
    )
    return y * a_f[:, None, None]


def dyconv(layer, x, deep):
    p = torch.exp(linear(layer.expand, linear(layer.reduce, pooled(deep)).clamp(min=0)) / 30)
    p = p / p.sum()
    pairs = zip(p, layer.weights.view(4, 16, 16, 3, 3), layer.biases, strict=True)
    return sum(share * F.conv2d(x, weight, bias, padding=1) for share, weight, bias in pairs)


def dcd(layer, x, deep):
    """By the one kernel of the paper's equation, diag(s) W0 + P F Q^T at its middle."""
    code = linear(layer.expand, linear(layer.reduce, pooled(deep)).clamp(min=0))
    scale, fusion = torch.diag(code[:16]), code[16:].view(layer.latent, layer.latent)
    kernel = torch.einsum("op,pikl->oikl", scale, layer.conv.weight)
    kernel[:, :, 1, 1] += layer.p.weight[:, :, 0, 0] @ fusion @ layer.q.weight[:, :, 0, 0]
    return F.conv2d(x, kernel, padding=1)


def gate(layer, x, deep):
    s = 1 / (1 + torch.exp(-linear(layer.expand, linear(layer.reduce, pooled(deep)).clamp(min=0))))
    return torch.einsum("c,bchw->bchw", s, x)


def film(layer, x, deep):
    numbers = linear(layer.affine, pooled(deep))
    return torch.einsum("c,bchw->bchw", numbers[:16], x) + numbers[16:].view(1, 16, 1, 1)


def conv(layer, x, deep):
    """As a sum over the nine places of the kernel."""
    padded, weight = F.pad(x, (1, 1, 1, 1)), layer.conv.weight
    height, width = x.shape[2:]
    places = [(i, j) for i in range(3) for j in range(3)]
    shifted = [padded[:, :, i : i + height, j : j + width] for i, j in places]
    return sum(torch.einsum("oi,bihw->bohw", weight[:, :, i, j], s) for (i, j), s in zip(places, shifted, strict=True))


EQUATIONS = {
    "conv": conv,
    "conv_scaled": conv,
    "gate": gate,
    "condconv": condconv,
    "odconv": odconv,
    "dyconv": dyconv,
    "dcd": dcd,
    "film": film,
}


@pytest.mark.parametrize("name", COUNTS)
def test_equals_its_equation_written_another_way(name):
    layer = build(name).double()
    x, deep = inputs(2, dtype=torch.float64)
    expected = torch.cat([EQUATIONS[name](layer, x[i : i + 1], deep[i]) for i in range(2)])
    torch.testing.assert_close(layer(x, deep), expected)


def test_initialisation():
    """As large as each file says it starts."""
    assert build("conv", 64).conv.weight.abs().max().item() == pytest.approx(1 / 24, rel=0.01)
    scaled = build("conv_scaled", 64).conv.weight
    dpconv = models.DPConv(64)
    for weight in (scaled, dpconv.expand.weight, dpconv.expand.bias):
        assert weight.abs().max().item() == pytest.approx(1, rel=0.01)
        assert weight.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)
    for name, weights in (("condconv", "experts"), ("odconv", "weights"), ("dyconv", "weights")):
        for kernel in getattr(build(name, 64), weights):
            assert kernel.abs().max().item() == pytest.approx(1 / 24, rel=0.01), name
    dcd = build("dcd", 64, 64)
    torch.testing.assert_close(dcd.code(torch.zeros(1, 64, 2, 2))[0, :64], torch.ones(64), rtol=0, atol=1)
    assert dcd.latent == 8 and build("dcd", 256).latent == 16


@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolve_per_sample(size):
    x, kernels = torch.randn(3, 4, 5, 6).double(), torch.randn(3, 7, 4, size, size).double()
    expected = torch.cat([F.conv2d(x[i : i + 1], kernels[i], padding=size // 2) for i in range(3)])
    torch.testing.assert_close(convolve_per_sample(x, kernels, size), expected)


@pytest.mark.filterwarnings("ignore")  # of tracing, which is deprecated, and of what it may take for constants
@pytest.mark.parametrize("name", [*COUNTS, "DPConv2d"])
def test_exported_at_one_batch_and_size_runs_at_others(name, tmp_path):
    need("onnx", "onnxruntime")
    import onnxruntime

    layer = DPConv2d(16, 32, groups=2, dilation=2, source_channels=8) if name == "DPConv2d" else build(name)
    path = tmp_path / "layer.onnx"
    axes = {0: "batch", 2: "height", 3: "width"}
    names = ["x"] if name.startswith("conv") else ["x", "deep"]
    torch.onnx.export(
        layer.eval(),
        inputs(2)[: len(names)],
        path,
        dynamo=False,
        opset_version=17,
        input_names=names,
        output_names=["term"],
        dynamic_axes={each: axes for each in (*names, "term")},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, size in ((1, (6, 7)), (2, (9, 4)), (5, (16, 12))):
        x, deep = inputs(batch, size=size)
        given = {"x": x.numpy(), "deep": deep.numpy()}
        (found,) = session.run(None, {each: given[each] for each in names})
        torch.testing.assert_close(torch.from_numpy(found), layer(x, deep).detach(), rtol=1e-4, atol=1e-5)
