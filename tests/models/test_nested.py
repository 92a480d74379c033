from __future__ import annotations

import pytest
import torch
from torch import nn

import models
from models.blocks import EfficientChannelAttention, LocalContrast
from models.nested import NestedUNet, prepare_image


def small(**changes):
    shape = {"widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "stem": 4, "out_channels": 2, "local_contrast": False}
    return NestedUNet(**{**shape, **changes}).eval()


def millions(network):
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_parameter_counts_of_the_paper():
    # The released networks hold 0.80 M and 11.2 M, the latter 9.9 M without entries that are never read.
    assert millions(models.build_reconstruction("srs")) == pytest.approx(0.80, abs=0.1)
    srs = models.build_srs("srs")
    assert millions(srs.segmenter) + millions(srs.dpconv) == pytest.approx(9.9, abs=0.05)


def test_no_dead_parameters():
    network = small(local_contrast=True).train()
    network(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_pyramid_of_the_encoder():
    pyramid = small().encode(torch.randn(2, 3, 32, 48))
    assert [tuple(level.shape) for level in pyramid] == [(2, 8, 32, 48), (2, 8, 16, 24), (2, 16, 8, 12), (2, 16, 4, 6)]


def test_the_call_is_encode_then_decode():
    network = small()
    image = torch.randn(1, 3, 24, 16)
    torch.testing.assert_close(network(image), network.decode(network.encode(image)))


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (9, 15), (37, 53), (16, 8)])
def test_any_size_is_padded_and_cropped(size):
    network = small()
    image = torch.randn(1, 3, *size)
    out = network(image)
    assert out.shape == (1, 2, *size)
    padded = torch.nn.functional.pad(image, (0, -size[1] % 8, 0, -size[0] % 8), mode="replicate")
    torch.testing.assert_close(out, network(padded)[..., : size[0], : size[1]])


@torch.no_grad()
def test_gray_is_repeated_to_three_channels():
    network = small()
    gray = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(network(gray), network(gray.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 16, 16), "3 dimensions"),
        ((1, 3, 1, 16, 16), "5 dimensions"),
        ((1, 2, 16, 16), "got 2"),
        ((1, 4, 16, 16), "got 4"),
        ((1, 3, 7, 16), "at least 8x8"),
        ((1, 3, 16, 4), "at least 8x8"),
    ],
)
def test_impossible_inputs_say_so(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape))


def test_a_fitting_image_is_not_copied():
    image = torch.randn(1, 3, 16, 24)
    assert prepare_image(image).data_ptr() == image.data_ptr()


@pytest.mark.parametrize("changes", [{"widths": (8, 8, 16)}, {"depths": (1, 1)}, {"widths": (8, 8, 16, 12)}])
def test_impossible_shapes_say_so(changes):
    with pytest.raises(ValueError, match=r"rows|multiples of 8"):
        small(**changes)


def test_unknown_variant_names_the_known_ones():
    for build in (models.build_reconstruction, models.build_srs):
        with pytest.raises(ValueError, match="srs_tiny"):
            build("srs_huge")


def test_eca_pools_the_sigmoid():
    eca, x = EfficientChannelAttention(), torch.randn(2, 8, 5, 5)
    pooled = torch.sigmoid(x).amax((2, 3))
    weights = torch.sigmoid(eca.conv(pooled[:, None]))[:, 0, :, None, None]
    torch.testing.assert_close(eca(x), x * weights)


def test_local_contrast_uses_each_convolution_twice():
    block, x = LocalContrast(4), torch.randn(2, 4, 9, 9)
    contrasts = []
    for conv in block.scales:
        mu = conv(x)
        contrasts.append((x - mu + 0.001) / (torch.sigmoid(conv(x - mu)) + 0.001))
    torch.testing.assert_close(block(x), x * torch.sigmoid(torch.stack(contrasts).mean(0)) + x)


def test_small_variations_survive_bfloat16():
    torch.manual_seed(0)
    encoder = small(stem=8).train().encode
    nn.init.uniform_(encoder.stem[0].bias, 0.1, 0.3)
    image = 0.01 * torch.randn(4, 3, 32, 32)  # about as the authors' normalization has it
    expected = encoder(image)[0]
    with torch.autocast("cpu", torch.bfloat16):
        x = encoder(image)[0]
    assert (x - expected).square().mean().sqrt() < 0.01 * expected.std()
