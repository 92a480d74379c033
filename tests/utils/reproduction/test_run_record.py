"""The line of a finished run: its network's parameters and MACs."""

from __future__ import annotations

import pytest

import models
from utils.reproduction.run_record import _macs


@pytest.mark.parametrize("layer", models.layers())
def test_every_layer_can_be_counted(layer):
    alone = _macs(("srs_tiny", "none", "recon"), 32)
    assert _macs(("srs_tiny", layer, "recon"), 32) >= alone > 1e6
