"""Which batch norms are synchronised; that the numbers are right is in tests/test_distributed.py."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from utils.common.errors import UserError
from utils.training.sync_batch_norm import SyncBatchNorm2d, synchronise_batch_norms


def test_ordinary_batch_norms():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    synchronise_batch_norms(network)
    assert type(network[1]) is SyncBatchNorm2d


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), type("Mine", (nn.BatchNorm2d,), {})(8)])
def test_others_are_refused_instead_of_left_out(norm):
    network = nn.Sequential(nn.BatchNorm2d(8), norm)
    with pytest.raises(UserError, match=f"nn.BatchNorm2d only, but 1 is a {type(norm).__name__}"):
        synchronise_batch_norms(network)
    assert type(network[0]) is nn.BatchNorm2d


def test_maps_on_cuda_go_to_torchs_own(monkeypatch):
    seen = []
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda self, x: seen.append((self, x.device.type)) or x)
    network = nn.Sequential(nn.BatchNorm2d(8))
    synchronise_batch_norms(network)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network(torch.empty(2, 8, 4, 4, device="cuda"))
        assert seen == [(network[0], "cuda")]
    with torch.no_grad():
        network(torch.empty(2, 8, 4, 4))
    assert len(seen) == 1, "validation, whose batches differ between the processes, does not synchronise"


def test_torchs_own_finds_all_that_it_reads():
    """Without a job its forward is an ordinary batch norm's, by the same attributes."""
    network, ordinary = nn.Sequential(nn.BatchNorm2d(8)), nn.BatchNorm2d(8)
    synchronise_batch_norms(network)
    x = torch.randn(3, 8, 4, 4)
    assert torch.equal(nn.SyncBatchNorm.forward(network[0], x), ordinary(x))
    assert torch.equal(network[0].running_var, ordinary.running_var) and network[0].process_group is None
