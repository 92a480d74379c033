from __future__ import annotations

import re

import pytest
import torch

from models import authors

DEAD_IN_BOTH = r"IPATR\d\.tr(_1)?\.|conv0_3_1x1\.|bottomuplocal_fpn_\d\.bn[12]\."


@pytest.fixture
def states(golden):
    return golden.state("SRS_R"), golden.state("SRS_S")


def test_every_living_entry_is_used(states):
    recon, seg = states
    network, srs = authors.load_reconstruction(recon), authors.load_srs(recon, seg)
    living = [name for name in recon if not re.match(DEAD_IN_BOTH, name)]
    assert len(network.state_dict()) == len(living)
    living = [name for name in seg if not re.match(DEAD_IN_BOTH + r"|IPATR\d\.", name)]
    assert len(srs.segmenter.state_dict()) + len(srs.dpconv.state_dict()) == len(living)


def test_values_arrive_where_they_belong(states):
    srs = authors.load_srs(*states)
    seg = states[1]
    assert torch.equal(srs.encoder.stem[0].weight, states[0]["conv1.0.weight"])
    assert torch.equal(srs.segmenter.encode.nodes[2][1].conv2.weight, seg["conv2_0.1.CONV.weight"])
    assert torch.equal(srs.segmenter.decode.nodes["11"][0].shortcut[1].bias, seg["conv1_1.0.shortcut.1.bias"])
    assert torch.equal(srs.segmenter.decode.fuse[2].low[3].bias, seg["bottomuplocal_fpn_3.conv2.bias"])
    assert torch.equal(srs.dpconv.expand.bias, seg["PKernel_D2.Conv.2.bias"])


def test_dead_entries_may_be_absent(states):
    recon = {name: value for name, value in states[0].items() if not re.match(DEAD_IN_BOTH, name)}
    authors.load_reconstruction(recon)


def test_a_missing_entry_is_named(states):
    del states[0]["conv0_2.3.bn1.weight"]
    with pytest.raises(ValueError, match=r"SRS_R.*missing conv0_2\.3\.bn1\.weight"):
        authors.load_reconstruction(states[0])


def test_an_extra_entry_is_named(states):
    states[1]["head.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"SRS_S.*unexpected head\.weight"):
        authors.load_srs(*states)


def test_local_contrast_is_dead_in_the_segmenter_only(states):
    del states[1]["IPATR0.conv1.weight"]
    authors.load_srs(*states)
    del states[0]["IPATR0.conv1.weight"]
    with pytest.raises(ValueError, match="IPATR0"):
        authors.load_reconstruction(states[0])


def test_a_misshapen_entry_is_named_with_both_shapes(states):
    states[1]["mask_head_1x1.weight"] = torch.zeros(2, 16, 1, 1)
    with pytest.raises(ValueError, match=r"mask_head_1x1\.weight has shape \(2, 16, 1, 1\), expected \(1, 16, 1, 1\)"):
        authors.load_srs(*states)


def test_swapped_files_are_an_error_that_stays_short(states):
    with pytest.raises(ValueError, match="SRS_R") as caught:
        authors.load_srs(states[1], states[0])
    assert "more" in str(caught.value) and len(str(caught.value)) < 2000


def test_something_else_than_tensors_is_an_error(states):
    states[0]["conv1.0.bias"] = "a string"
    with pytest.raises(ValueError, match=r"conv1\.0\.bias"):
        authors.load_reconstruction(states[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_an_error(states, value):
    states[1]["conv0_2.0.bn1.weight"][3] = value
    with pytest.raises(ValueError, match=r"SRS_S: conv0_2\.0\.bn1\.weight contains values that are not finite"):
        authors.load_srs(*states)


def test_result_is_in_evaluation_mode(states):
    assert not authors.load_reconstruction(states[0]).training
    assert not authors.load_srs(*states).segmenter.training
