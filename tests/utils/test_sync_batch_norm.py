"""Which batch norms are synchronised; that the numbers are right is in tests/test_distributed.py."""

from torch import nn

from utils.sync_batch_norm import SyncBatchNorm2d, synchronise_batch_norms


def test_ordinary_batch_norms():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    synchronise_batch_norms(network)
    assert type(network[1]) is SyncBatchNorm2d
