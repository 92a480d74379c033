"""`--cuda_graphs` without a GPU: the comparison with the plain network, and refusals. See also tests/test_gpu.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy import Toy, make_data, run

from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.training.cuda_graphs import COMPARE_EVERY, GraphedNetwork


class Scaled(nn.Module):
    """A result that depends on an attribute, besides the statistics of a batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.scale = 1.0

    def forward(self, images):
        return self.scale * self.layers(images)


class Recorded(nn.Module):
    """What CUDA records: the network with the scale of that moment."""

    def __init__(self, call, args, **_):
        super().__init__()
        self.network, self.scale = call.network, call.network.scale
        for _ in range(3):  # torch's own warm-up
            call(*args)

    def forward(self, images):
        now, self.network.scale = self.network.scale, self.scale
        try:
            return self.network(images)
        finally:
            self.network.scale = now


@pytest.fixture
def graphed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", Recorded)
    torch.manual_seed(0)
    return GraphedNetwork(Scaled(), torch.randn(2, 3, 4, 4), Precision("off", torch.device("cpu")))


def test_recording_and_comparing_leave_no_trace(graphed):
    images, plain = torch.randn(2, 3, 4, 4), Scaled()
    plain.load_state_dict(graphed.network.state_dict())
    torch.manual_seed(1)
    expected = plain(images)
    torch.manual_seed(1)
    assert torch.equal(graphed(images), expected), "the same dropout"
    for ours, theirs in zip(graphed.network.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(parameter.grad is None for parameter in graphed.network.parameters())


def test_a_change_that_the_graphs_do_not_have_ends_the_run(graphed):
    images = torch.randn(2, 3, 4, 4)
    graphed(images)
    graphed.network.scale = 2.0
    with pytest.raises(UserError, match=r"outputs of the recorded network differ .* Omit --cuda_graphs"):
        for _ in range(COMPARE_EVERY):
            graphed(images)


def test_another_shape_runs_as_written(graphed):
    graphed.network.scale = 2.0
    images = torch.randn(1, 3, 4, 4)
    torch.manual_seed(1)
    expected = 2.0 * graphed.network.layers(images)
    torch.manual_seed(1)
    assert torch.equal(graphed(images), expected)


def test_gradients_of_nothing_are_equal(graphed):
    """A network that has not begun to learn, or has died, may continue."""
    graphed.network.scale = graphed._graphed.scale = 0.0
    graphed(torch.randn(2, 3, 4, 4))


def test_hooks_are_refused():
    network = Scaled()
    network.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="--cuda_graphs: the network has hooks"):
        GraphedNetwork(network, torch.randn(2, 3, 4, 4), Precision("off", torch.device("cpu")))


def test_a_cpu_is_refused(tmp_path):
    with pytest.raises(UserError, match="--cuda_graphs requires CUDA, but this run uses cpu"):
        run(Toy(), make_data(tmp_path / "set"), tmp_path / "run", cuda_graphs=True)
