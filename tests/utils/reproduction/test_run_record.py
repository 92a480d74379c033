"""The line of a finished run: its network's parameters and MACs."""

from __future__ import annotations

import pytest

import models
from utils.reproduction.run_record import _machine, _macs


@pytest.mark.parametrize("layer", models.layers())
def test_every_layer_can_be_counted(layer):
    alone = _macs(("srs_tiny", "none", "recon"), 32)
    assert _macs(("srs_tiny", layer, "recon"), 32) >= alone > 1e6


def test_the_machines_of_a_run_that_was_resumed_on_another_one():
    last = {"device": "cpu", "platform": "Linux", "threads": 1, "processes": 1}
    earlier = [{"epochs": 3, "device": "a GPU", "torch": "2.11.0", "commit": None}]
    assert _machine(last | {"git_commit": "c"}) == _machine(last | {"earlier": []}) == last
    assert _machine(last | {"earlier": earlier}) == last | {"earlier": earlier}
