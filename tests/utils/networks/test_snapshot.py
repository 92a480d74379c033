"""A snapshot tells every kind of edit, and neither changed weights nor a network that is as it was."""

from __future__ import annotations

import copy
import gc
import types
import weakref

import pytest
import torch
from small import small_srs
from torch import nn

from models.blocks import ResidualBlock
from utils.networks.snapshot import Snapshot


class Holder(nn.Module):
    """Has settings in a list, an object of another kind, and a child that may be None."""

    def __init__(self):
        super().__init__()
        self.scales, self.more, self.act = [1, 2], {"a": 1}, torch.relu
        self.register_module("part", None)


def network():
    return nn.Sequential(small_srs(), Holder())


def hook(module, inputs, output):
    return None


EDITS = {
    "a hook": lambda net: net[0].segmenter.register_forward_hook(hook),
    "a hook before": lambda net: net[0].segmenter.register_forward_pre_hook(lambda module, inputs: None),
    "a setting": lambda net: setattr(net[0].segmenter.decode.top.bn1, "eps", 0.1),
    "a setting that becomes a tensor": lambda net: setattr(net[0].segmenter.decode.top.bn1, "eps", torch.zeros(2)),
    "a setting in a list": lambda net: net[1].scales.append(3),
    "a setting in a dict": lambda net: net[1].more.update(a=2),
    "a setting less": lambda net: delattr(net[1], "scales"),
    "another name": lambda net: (delattr(net[1], "scales"), setattr(net[1], "sizes", [1, 2])),
    "a function": lambda net: setattr(net[1], "act", torch.sigmoid),
    "a forward": lambda net: setattr(net[1], "forward", lambda x: x),
    "a method": lambda net: setattr(net[0], "_deep", types.MethodType(lambda self, x: x, net[0])),
    "a class": lambda net: setattr(net[0].segmenter.decode.top, "__class__", type("Other", (ResidualBlock,), {})),
    "a child": lambda net: setattr(net[0].segmenter.decode, "head", copy.deepcopy(net[0].segmenter.decode.head)),
    "a child where none was": lambda net: setattr(net[1], "part", nn.Identity()),
    "another child": lambda net: net.append(nn.Identity()),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit(name):
    net = network()
    snapshot = Snapshot(net)
    assert not snapshot.edited()
    EDITS[name](net)
    assert snapshot.edited()
    assert not Snapshot(net).edited()


def test_a_hook_in_the_place_of_another():
    net, snapshot = network(), None
    for _ in range(4):
        handle = net[1].register_forward_hook(lambda module, inputs, output: None)
        assert snapshot is None or snapshot.edited()
        snapshot = Snapshot(net)
        handle.remove()


def test_a_function_in_the_place_of_another():
    net, snapshot = network(), None
    for by in range(4):
        net[1].forward = lambda x, by=by: by * x
        assert snapshot is None or snapshot.edited()
        snapshot = Snapshot(net)


def test_weights_and_modes_are_not_edits():
    net = network()
    snapshot = Snapshot(net)
    net[0].train()(torch.randn(2, 3, 16, 16))
    with torch.no_grad():
        net[0].segmenter.decode.head.weight.zero_()
    assert not snapshot.edited()


def test_it_does_not_keep_the_network():
    net = network()
    part = weakref.ref(net[0].encoder)
    net[0].segmenter.register_forward_hook(lambda module, inputs, output, net=net: None)
    snapshot = Snapshot(net)
    del net
    gc.collect()
    assert part() is None and snapshot.edited()
