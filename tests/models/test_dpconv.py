from __future__ import annotations

import pytest
import torch

from models import DPConv, DPConv2d
from models.dpconv import FORMS


def inputs(batch=3, channels=16, deep_channels=8, size=6):
    torch.manual_seed(0)
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    deep = torch.randn(batch, deep_channels, size, size, requires_grad=True)
    return x, deep


def run(dpconv, form, x, deep):
    """Output and gradients (of every parameter and both inputs) of one form."""
    dpconv.form = form
    out = dpconv(x, deep)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [*dpconv.parameters(), x, deep])]


def test_both_forms_agree_in_values_and_gradients():
    dpconv = DPConv(16, 8).double()
    x, deep = (t.detach().double().requires_grad_() for t in inputs())
    shared, per_sample = (run(dpconv, form, x, deep) for form in ("shared", "per_sample"))
    for a, b in zip(shared, per_sample, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_shared_form_builds_no_kernels(monkeypatch):
    dpconv = DPConv(16, 8)
    monkeypatch.setattr(dpconv.expand, "forward", None)
    dpconv(*inputs())
    dpconv.form = "per_sample"
    with pytest.raises(TypeError):
        dpconv(*inputs())


def test_is_a_convolution_with_the_returned_kernels():
    dpconv = DPConv(16, 8)
    x, deep = inputs()
    kernels = dpconv.kernels(deep)
    assert kernels.shape == (3, 16, 16, 3, 3)
    expected = torch.cat([torch.conv2d(x[i : i + 1], kernels[i], padding=1) for i in range(3)])
    torch.testing.assert_close(dpconv(x, deep), expected, rtol=1e-4, atol=1e-5)


def test_kernel_of_an_output_channel_is_scaled_by_its_group_of_the_code():
    dpconv = DPConv(16, 8)
    _, deep = inputs()
    code = dpconv.code(deep)
    weights, biases = dpconv.expand.weight.view(16, 16, 3, 3), dpconv.expand.bias.view(16, 16, 3, 3)
    for o in (0, 1, 7, 15):
        expected = code[:, o // 2, None, None, None] * weights[o] + biases[o]
        torch.testing.assert_close(dpconv.kernels(deep)[:, o], expected)


def test_code_pools_after_the_projection_as_the_paper_writes_it():
    dpconv = DPConv(16, 8)
    _, deep = inputs()
    refined = dpconv.spatial_attention(dpconv.channel_attention(deep) * deep) * deep
    torch.testing.assert_close(dpconv.code(deep), dpconv.project(refined).mean((2, 3)))


def test_the_kernel_depends_on_the_deep_feature_alone_and_for_each_sample():
    dpconv = DPConv(16, 8)
    _, deep = inputs()
    kernels = dpconv.kernels(deep)
    assert not torch.allclose(kernels[0], kernels[1])
    torch.testing.assert_close(dpconv.kernels(deep[1:2])[0], kernels[1])


@pytest.mark.parametrize("form", FORMS)
def test_deep_feature_may_have_another_size(form):
    dpconv = DPConv(16, 8, form)
    assert dpconv(torch.randn(2, 16, 5, 7), torch.randn(2, 8, 3, 4)).shape == (2, 16, 5, 7)


@pytest.mark.parametrize(("channels", "deep_channels"), [(20, 8), (16, 12), (24, 12)])
def test_channels_that_do_not_fit(channels, deep_channels):
    with pytest.raises(ValueError, match="multiple"):
        DPConv(channels, deep_channels)


def test_unknown_form():
    with pytest.raises(ValueError, match="shared, per_sample"):
        DPConv(16, 8, form="fast")


SETTINGS = [
    {},
    {"kernel_size": 1},
    {"kernel_size": 5, "stride": 2},
    {"kernel_size": 4, "padding": 0},
    {"dilation": 2, "stride": 2},
    {"groups": 2},
    {"groups": 8, "kernel_size": 5, "dilation": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_dpconv2d_is_a_convolution_of_each_sample_with_its_own_kernel(form, settings):
    torch.manual_seed(0)
    conv = DPConv2d(16, 24, source_channels=8, form=form, **settings).double()
    x, source = torch.randn(3, 16, 9, 12).double(), torch.randn(3, 8, 5, 4).double()
    kernels, groups, size = conv.kernels(source), settings.get("groups", 1), settings.get("kernel_size", 3)
    assert kernels.shape == (3, 24, 16 // groups, size, size)
    ordinary = torch.nn.Conv2d(16, 24, **{"kernel_size": 3, "padding": conv.padding, **settings}, bias=False).double()
    expected = []
    for i in range(3):
        ordinary.weight.data.copy_(kernels[i])
        expected.append(ordinary(x[i : i + 1]))
    torch.testing.assert_close(conv(x, source), torch.cat(expected))
    # The kernel itself, number by number, from the grouped convolution's weights.
    code, per_group = conv.code(source), conv.expand.out_channels // 8
    numbers = conv.expand.weight.flatten() * code.repeat_interleave(per_group, dim=1) + conv.expand.bias
    torch.testing.assert_close(kernels.flatten(1), numbers)


@pytest.mark.parametrize("settings", SETTINGS[2:], ids=str)
def test_the_forms_of_dpconv2d_have_the_same_gradients(settings):
    conv = DPConv2d(16, 16, source_channels=8, **settings).double()
    x, deep = (t.detach().double().requires_grad_() for t in inputs(size=9))
    for a, b in zip(run(conv, "shared", x, deep), run(conv, "per_sample", x, deep), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_dpconv_is_dpconv2d_with_equal_channels():
    torch.manual_seed(1)
    dpconv = DPConv(16, 8)
    torch.manual_seed(1)
    conv = DPConv2d(16, 16, source_channels=8)
    assert list(dpconv.state_dict()) == list(conv.state_dict())
    assert torch.equal(dpconv(*inputs()), conv(*inputs()))


def test_groups_that_do_not_fit():
    with pytest.raises(ValueError, match="multiples of groups, got 16 to 24 in 3 groups"):
        DPConv2d(16, 24, groups=3, source_channels=8)
