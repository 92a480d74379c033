"""Which batch norms are synchronised; that the numbers are right is in tests/test_distributed.py."""

import pytest
from torch import nn

from models.batch_norm import BatchNorm2d
from utils.sync_batch_norm import SyncBatchNorm2d, synchronise_batch_norms


@pytest.mark.parametrize("kind", [BatchNorm2d, nn.BatchNorm2d])
def test_ours_and_those_of_a_users_network(kind):
    network = nn.Sequential(nn.Conv2d(3, 8, 1), kind(8))
    synchronise_batch_norms(network)
    assert type(network[1]) is SyncBatchNorm2d
