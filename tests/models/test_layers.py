"""The layers that replace DPConv, by name, and networks that are not SRS."""

from __future__ import annotations

import sys
import types
from importlib import import_module

import pytest
import torch
from torch import nn

import models
from models import baselines, dynamic, registry
from models.any_size import AnySize
from models.protocols import kernel_writer, set_form
from models.registry import check_rows

OTHERS = [name for name in models.layers() if name != models.DPCONV]


def build(layer, channels=16, deep_channels=8):
    torch.manual_seed(0)
    return import_module(f"models.dynamic.{layer}").build(channels=channels, deep_channels=deep_channels)


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, channels, 4, 5, generator=generator, dtype=dtype) for channels in (16, 8))


def test_names():
    assert models.layers()[0] == "dpconv" and {"none", "static"} <= set(models.layers())
    assert models.networks().keys() >= models.VARIANTS.keys()
    with pytest.raises(ValueError, match=r"unknown layer 'odd'; must be one of dpconv, "):
        models.build("srs_tiny", layer="odd")
    with pytest.raises(ValueError, match=r"unknown variant 'odd'; must be one of srs, srs_tiny"):
        models.build("odd")


def test_a_file_does_not_take_the_name_of_the_papers_parts(monkeypatch):
    files = {dynamic: ["dpconv", "none"], baselines: ["srs", "unext"]}
    monkeypatch.setattr(registry, "_files", files.__getitem__)
    with pytest.raises(ValueError, match=r"rename models/dynamic/dpconv\.py"):
        models.build_layer("dpconv", 16, 8)
    with pytest.raises(ValueError, match=r"rename models/dynamic/dpconv\.py"):
        models.check_network("srs_tiny")
    models.check_network("srs_tiny", layer="none")
    for build in (models.build, models.build_srs, models.build_reconstruction):
        with pytest.raises(ValueError, match=r"rename models/baselines/srs\.py"):
            build("srs")
    with pytest.raises(ValueError, match=r"rename models/baselines/srs\.py"):
        models.networks()["srs"]()


def test_a_file_without_build_is_named(monkeypatch):
    for package, name, build in (
        ("dynamic", "film", lambda: models.build("srs_tiny", layer="film")),
        ("baselines", "unext", lambda: models.build("unext")),
    ):
        monkeypatch.setitem(sys.modules, f"models.{package}.{name}", types.ModuleType(name))
        with pytest.raises(ValueError, match=rf"^models/{package}/{name}\.py has no function build\."):
            build()


def test_an_encoder_is_not_dropped():
    encoder = models.build_reconstruction().encode
    with pytest.raises(ValueError, match="unext takes no encoder"):
        models.build("unext", encoder=encoder)


@pytest.mark.parametrize("layer", OTHERS)
def test_a_layer_has_the_shape_of_x_and_the_right_gradients(layer):
    module, (x, deep) = build(layer).double(), inputs()
    given = deep.requires_grad_() if models.needs_encoder("srs", layer) else None
    assert module(x, given).shape == x.shape
    parameters = list(module.parameters())
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: module(x, given), (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("layer", OTHERS)
def test_a_network_with_a_layer_trains_all_that_it_holds(layer):
    network = models.build("srs_tiny", layer=layer).train()
    assert (network.encoder is not None) == models.needs_encoder("srs_tiny", layer)
    network(torch.randn(2, 3, 16, 16)).square().mean().backward()
    assert all(p.grad is not None for p in network.trained_parameters())


def test_none_is_the_segmenter_alone():
    network = models.build("srs_tiny", layer="none").eval()
    image = torch.randn(1, 3, 16, 24)
    assert torch.equal(network(image), network.segmenter(image))
    assert not list(network.dpconv.parameters())


def test_static_is_dpconv_of_one_code():
    """With DPConv's W and V, in its initialisation, and g in place of the code of any image."""
    static, (x, deep) = build("static").double(), inputs()
    torch.manual_seed(0)
    dpconv = models.DPConv(16, 8).double()
    for name, value in static.expand.state_dict().items():
        assert torch.equal(value, dpconv.expand.state_dict()[name])
    dpconv.code = lambda deep: static.g.expand(len(deep), -1)
    torch.testing.assert_close(static(x), dpconv(x, deep))


def test_static_takes_the_channels_of_dpconv_alone():
    with pytest.raises(ValueError, match="multiple of those of its source"):
        build("static", channels=12)


def test_who_writes_kernels():
    image = torch.zeros(1, 3, 16, 16)
    network = models.build("srs_tiny")
    assert kernel_writer(network).kernels(network.deep_features(image)).shape == (1, 64, 64, 3, 3)
    set_form(network, "per_sample")
    assert network.dpconv.form == "per_sample"
    for other in (models.build("srs_tiny", layer="static"), models.build("srs_tiny", layer="none"), nn.Conv2d(3, 1, 1)):
        assert kernel_writer(other) is None
        set_form(other, "shared")
        assert not hasattr(getattr(other, "dpconv", None), "form")


def test_an_encoder_that_is_not_there_has_no_batch_norms():
    with pytest.raises(ValueError, match="without encoder"):
        models.build("srs_tiny", layer="none", encoder_bn="batch")


def test_any_size_pads_and_crops():
    class Strict(nn.Module):
        def forward(self, image):
            assert image.shape[1] == 3 and image.shape[2] % 32 == image.shape[3] % 32 == 0
            return image.mean(1, keepdim=True)

    gray = torch.randn(2, 1, 9, 70)
    torch.testing.assert_close(AnySize(Strict(), 32)(gray), gray)
    with pytest.raises(ValueError, match="at least 8x8"):
        AnySize(Strict(), 32)(torch.zeros(1, 3, 7, 40))


def test_rows_that_do_not_fit():
    for widths, depths, rule in (
        ((8, 8, 8), (1, 1, 1, 1), "4 rows"),
        ((8, 8, 8, 0), (1, 1, 1, 1), "multiples of 8"),
        ((8, 8, 8, 8), (1, 1, 1, 0), "at least 1"),
    ):
        with pytest.raises(ValueError, match=rule):
            check_rows(widths, depths)
        with pytest.raises(ValueError, match=rule):
            models.NestedUNet(widths, depths, stem=8, out_channels=1, local_contrast=False)


@pytest.mark.parametrize("layer", ["dpconv", "gate", "condconv", "odconv", "dcd"])
def test_the_source_of_the_kernel(layer):
    torch.manual_seed(0)
    encoder, image = models.build_reconstruction().encode, torch.randn(2, 3, 16, 24)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    options = {"layer": layer, "encoder": encoder}
    recon, random, own = (models.build("srs_tiny", **options, kernel_source=s).eval() for s in models.KERNEL_SOURCES)
    assert recon.encoder is encoder
    assert all(torch.equal(value, state[name]) for name, value in recon.encoder.state_dict().items())
    assert random.encoder is not encoder and random.encoder.state_dict().keys() == state.keys()
    assert not torch.equal(random.encoder.stem[0].weight, encoder.stem[0].weight)
    assert not any(parameter.requires_grad for parameter in random.encoder.parameters())
    assert own.encoder is None and not [name for name in own.state_dict() if name.startswith("encoder")]
    pyramid = own.segmenter.encode(image)
    assert torch.equal(own.deep_features(image), pyramid[-1])
    pyramid[-1] = pyramid[-1] + own.dpconv(pyramid[-1], pyramid[-1])
    torch.testing.assert_close(own(image), own.segmenter.decode(pyramid))
    needs = [models.needs_phase_1("srs_tiny", layer, source) for source in models.KERNEL_SOURCES]
    assert needs == [True, False, False]
    held = [models.needs_encoder("srs_tiny", layer, source) for source in models.KERNEL_SOURCES]
    assert held == [True, True, False]


def test_sources_that_are_refused():
    for layer in ("none", "static", "conv", "conv_scaled"):
        assert not models.needs_phase_1("srs", layer)
        with pytest.raises(ValueError, match=f"kernel_source random requires a layer with a source; {layer} has none"):
            models.build("srs_tiny", layer=layer, kernel_source="random")
    with pytest.raises(ValueError, match="must be one of recon, random, self"):
        models.build("srs_tiny", kernel_source="odd")
    with pytest.raises(ValueError, match="a variant of SRS"):
        models.build("unext", kernel_source="self")
    with pytest.raises(ValueError, match="without encoder"):
        models.build("srs_tiny", kernel_source="self", encoder_bn="batch")
