"""A phase 2 checkpoint is matched with the phase 1 checkpoint of its encoder by all values."""

from __future__ import annotations

import pytest
import torch

from utils.networks.load_weights import same_encoder

WEIGHT = torch.arange(3.0)


@pytest.mark.parametrize(
    ("frozen", "pretrained", "same"),
    [
        (WEIGHT, WEIGHT.clone(), True),
        (WEIGHT, WEIGHT + 1, False),
        (WEIGHT, WEIGHT.double(), False),
        (WEIGHT, WEIGHT[:2], False),
        ("text", WEIGHT, False),
        (WEIGHT, "text", False),
        ("text", "text", False),
    ],
)
def test_of_one_entry(frozen, pretrained, same):
    segmentation = {"model": {"encoder.stem.weight": frozen, "segmenter.stem.weight": WEIGHT}}
    assert same_encoder(segmentation, {"model": {"encode.stem.weight": pretrained, "decode.head": WEIGHT}}) == same
    assert not same_encoder(segmentation, {"model": {"encode.other": pretrained}})
