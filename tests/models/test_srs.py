from __future__ import annotations

import copy

import pytest
import torch

import models


@pytest.fixture
def make():
    def build(encoder_bn="frozen"):
        torch.manual_seed(0)
        return models.build_srs("srs_tiny", encoder_bn)

    return build


def encoder_state(srs):
    return copy.deepcopy(srs.encoder.state_dict())


@pytest.mark.parametrize("encoder_bn", models.ENCODER_BN)
def test_training_leaves_the_encoder_as_it_is(make, encoder_bn):
    srs = make(encoder_bn).train()
    before = encoder_state(srs)
    other = copy.deepcopy(srs.segmenter.state_dict())
    optimizer = torch.optim.SGD(srs.parameters(), lr=0.1, weight_decay=0.1)
    srs(torch.randn(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in srs.encoder.state_dict().items())
    assert any(not torch.equal(value, other[name]) for name, value in srs.segmenter.state_dict().items())
    assert all(p.grad is None for p in srs.encoder.parameters())
    assert all(p.grad is not None for p in srs.trained_parameters())


def test_frozen_encoder_ignores_train(make):
    srs = make()
    for mode in (True, False):
        srs.train(mode)
        assert not any(module.training for module in srs.encoder.modules())
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(srs.train().deep_features(image)[:1], srs.eval().deep_features(image[:1]))


def test_batch_encoder_uses_the_batch_in_evaluation_too(make):
    srs = make("batch").eval()
    image = torch.randn(2, 3, 32, 32)
    together, alone = srs.deep_features(image)[:1], srs.deep_features(image[:1])
    assert not torch.allclose(together, alone, rtol=1e-2)
    torch.testing.assert_close(srs.train().deep_features(image)[:1], together)


@torch.no_grad()
def test_the_deepest_map_gets_the_dpconv_term(make):
    srs = make().eval()
    image = torch.randn(1, 3, 32, 32)
    *shallow, x = srs.segmenter.encode(image)
    x = x + srs.dpconv(x, srs.deep_features(image))
    torch.testing.assert_close(srs(image), srs.segmenter.decode([*shallow, x]))


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (13, 30)])
def test_any_size_and_gray(make, size):
    srs = make().eval()
    gray = torch.randn(2, 1, *size)
    logits = srs(gray)
    assert logits.shape == (2, 1, *size)
    torch.testing.assert_close(logits, srs(gray.repeat(1, 3, 1, 1)))
    assert srs.deep_features(gray).shape == (2, 64, -(-size[0] // 8), -(-size[1] // 8))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 2, 16, 16), (1, 3, 7, 16)])
def test_impossible_inputs_say_so(make, shape):
    with pytest.raises(ValueError, match="expected"):
        make()(torch.zeros(shape))


def test_batch_statistics_of_one_pixel_say_so(make):
    with pytest.raises(ValueError, match="more than one deep pixel"):
        make("batch").eval()(torch.zeros(1, 3, 8, 8))


def test_holds_the_encoder_half_alone(make):
    assert not [name for name in make().state_dict() if name.startswith("encoder.decode")]
    encoder = models.build_reconstruction().encode
    assert models.build_srs("srs_tiny", encoder=encoder).encoder is encoder


def test_unknown_encoder_bn():
    with pytest.raises(ValueError, match="frozen, batch"):
        models.build_srs("srs_tiny", encoder_bn="thawed")


def test_one_encoder_serves_both_variants():
    encoder = models.build_reconstruction("srs").encode
    for variant in models.VARIANTS:
        assert models.build_srs(variant, encoder=encoder)(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 16, 16)
