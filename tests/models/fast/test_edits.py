"""An edit of the method counts: in training, validation, evaluation, prediction and export, the edited network runs.

Every edit is made twice, to a plain network and to one that goes where the scripts send it.
"""

from __future__ import annotations

import argparse
import copy
import functools
import random
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm
from torch.overrides import TorchFunctionMode

import models
from models import blocks, dpconv, nested
from models.blocks import BLAM, ChannelAttention, LocalContrast, ResidualBlock, ShuffleUp, SpatialAttention
from models.dpconv import DPConv
from models.fast import comparison, fingerprints
from models.fast.packed_conv import can_pack
from models.fast.twins import KNOWN
from models.nested import NestedDecoder, NestedEncoder, NestedUNet
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.networks import speed
from utils.networks.export import FORMATS, export_model
from utils.networks.inference_engines import load_engine
from utils.networks.speed import prediction

CPU = torch.device("cpu")
OFF, BF16 = Precision("off", CPU), Precision("bf16", CPU)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def small(block_class=ResidualBlock):
    """An SRS of two blocks a node and random statistics; the reconstruction encoder is edited, too."""
    torch.manual_seed(0)
    encoder = NestedEncoder((8, 16, 16, 64), (2, 1, 1, 1), stem=8)
    segmenter = NestedUNet((8, 16, 16, 64), (2, 1, 1, 1), stem=8, out_channels=1, local_contrast=True)
    srs = models.SRS(encoder, segmenter, DPConv(64, 64))
    for module in srs.modules():
        if isinstance(module, nn.BatchNorm2d):
            for numbers in (module.running_mean, module.weight, module.bias):
                nn.init.uniform_(numbers, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return srs


def every(network, kind):
    return [module for module in network.modules() if type(module) in (kind, KNOWN.get(kind, (None,))[0])]


def without_spatial_attention(self, x):
    y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
    return torch.relu(self.channel_attention(y) * y + self.shortcut(x))


class WithoutSpatialAttention(ResidualBlock):
    forward = without_spatial_attention


class PreActivation(ResidualBlock):
    """Batch norms named after the convolutions that they come before."""

    def forward(self, x):
        bn1 = self.bn1 if len(self.bn1.weight) == x.shape[1] else nn.Identity()
        y = self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(bn1(x))))))
        return self.spatial_attention(y) * self.channel_attention(y) * y + self.shortcut(x)


class ReZero(ResidualBlock):
    """A branch that is zero until it is trained."""

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        z = self.channel_attention(y) * y
        return torch.relu(self.spatial_attention(z) * z + self.alpha * y + self.shortcut(x))


class OtherChannelAttention(ChannelAttention):
    def forward(self, x):
        return 0.5 + super().forward(x)


class OtherSpatialAttention(SpatialAttention):
    def forward(self, x):
        return torch.sigmoid(2 * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)))


class LoRA(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv, self.down = conv, nn.Conv2d(conv.in_channels, 2, 1, bias=False)
        self.up = nn.Conv2d(2, conv.out_channels, 1, bias=False)

    def forward(self, x):
        return self.conv(x) + self.up(self.down(x))


class ConvLoRA(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 0.1 * x.mean(1, keepdim=True)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def become(kind, other):
    def edit(network, patch):
        for module in every(network, kind):
            module.__class__ = other

    return edit


def in_place(cls, function, name="forward"):
    return lambda network, patch: patch.setattr(cls, name, function)


def patched(module, name, value):
    return lambda network, patch: patch.setattr(module, name, value)


def on_every(kind, change):
    def edit(network, patch):
        for module in every(network, kind):
            change(module)

    return edit


def rezero(network, patch):
    for block in every(network, ResidualBlock):
        block.__class__ = ReZero
        block.alpha = nn.Parameter(torch.zeros(()))


def rezero_in_place(network, patch):
    for block in every(network, ResidualBlock):
        block.alpha = nn.Parameter(torch.zeros(()))
    patch.setattr(ResidualBlock, "forward", ReZero.forward)


def reflect(conv):
    if conv.kernel_size == (3, 3):
        conv.padding_mode, conv._reversed_padding_repeated_twice = "reflect", [conv.padding[0]] * 4


def same(conv):
    if conv.kernel_size == (3, 3):
        conv.padding, conv._reversed_padding_repeated_twice = "same", [1] * 4


def empty_shortcut(block):
    if isinstance(block.shortcut, nn.Identity):
        block.shortcut = nn.Sequential()


def shared(network, patch):
    node = network.segmenter.encode.nodes[0]
    node.append(node[1])
    network.segmenter.decode.nodes["01"][1] = node[1]


def moved(network, patch):
    decode = network.segmenter.decode
    decode.head = nn.Sequential(network.segmenter.encode.nodes[0][1], decode.head)
    network.segmenter.encode.nodes[0][1] = nn.Identity()


def frozen(network, patch):
    for norm in every(network.segmenter, nn.BatchNorm2d):
        norm.eval().requires_grad_(False)
        norm.train = lambda mode=True, norm=norm: norm


def frozen_weights(network, patch):
    for norm in every(network.segmenter, nn.BatchNorm2d)[::2]:
        norm.weight.requires_grad_(False)


def partly_frozen(network, patch):
    for attention in every(network.segmenter, ChannelAttention):
        attention.reduce.requires_grad_(False)
    for conv in every(network.segmenter, nn.Conv2d)[::3]:
        conv.requires_grad_(False)


def dropout(network, patch):
    node = network.segmenter.decode.nodes["01"]
    node.insert(1, nn.Dropout2d(0.5))
    network.segmenter.decode.top.shortcut.append(nn.Dropout2d(0.5))


def lora(network, patch):
    for block in every(network, ResidualBlock):
        block.conv2 = LoRA(block.conv2)
    network.segmenter.decode.head = LoRA(network.segmenter.decode.head)
    network.segmenter.encode.stem[0] = LoRA(network.segmenter.encode.stem[0])


def other_norms(network, patch):
    block = network.segmenter.decode.nodes["01"][0]
    block.bn1 = nn.GroupNorm(2, 8)
    block.bn2 = nn.BatchNorm2d(8, momentum=None)
    network.segmenter.decode.nodes["11"][0].bn1 = nn.BatchNorm2d(16, affine=False)
    network.segmenter.decode.nodes["02"][0].bn2 = nn.BatchNorm2d(8, track_running_stats=False)
    network.segmenter.encode.stem[1] = nn.InstanceNorm2d(8, affine=True)


def no_biases(network, patch):
    for block in every(network, ResidualBlock):
        block.conv1.bias = None
    network.segmenter.encode.stem[0].bias = None


def own_forward(network, patch):
    top = network.segmenter.decode.top
    top.forward = types.MethodType(without_spatial_attention, top)
    conv = network.segmenter.decode.nodes["11"][0].conv1
    conv.forward = lambda x: 2 * F.conv2d(x, conv.weight, conv.bias, padding=1)


def own_method(network, patch):
    def with_code(self, x, code):
        return 2 * DPConv.with_code(self, x, code)

    network.dpconv.with_code = types.MethodType(with_code, network.dpconv)


def hooked(find, register="register_forward_hook", hook=lambda module, inputs, output: 2 * output):
    return lambda network, patch: getattr(find(network.segmenter), register)(hook)


def hooked_everywhere(network, patch):
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: 1.5 * output if isinstance(module, SpatialAttention) else output
    )
    patch.callback(handle.remove)


def other_stem(network, patch):
    network.segmenter.encode.stem[2] = nn.Tanh()
    network.segmenter.decode.fuse[1].low.insert(1, nn.Softplus())


def parametrized(network, patch):
    parametrize.register_parametrization(network.segmenter.decode.top.conv2, "weight", Doubled())
    parametrizations.spectral_norm(network.segmenter.encode.nodes[0][0].conv1)
    parametrize.register_parametrization(network.segmenter.encode.stem[1], "bias", Doubled())


def pruned(network, patch):
    prune.l1_unstructured(network.segmenter.decode.top.conv1, "weight", amount=0.5)
    weight_norm(network.segmenter.encode.nodes[1][0].conv2)


def pruned_for_good(network, patch):
    conv = network.segmenter.decode.top.conv1
    prune.l1_unstructured(conv, "weight", amount=0.5)
    prune.remove(conv, "weight")


class LooksInside(nn.Module):
    """Takes a known block apart."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) + self.block.conv2.weight.mean() + self.block.bn1(self.block.conv1(x))


def looks_inside(network, patch):
    network.segmenter.decode.top = LooksInside(network.segmenter.decode.top)


def ternary(network, *inputs):
    """In a forward pass, changes the weights of the network."""
    with torch.no_grad():
        for conv in network.modules():
            if isinstance(conv, nn.Conv2d):
                conv.weight.copy_(conv.weight.sign() * conv.weight.abs().mean())


def ternary_by_a_hook(network, patch):
    network.register_forward_pre_hook(ternary)


def ternary_by_its_forward(network, patch):
    def forward(self, image):
        ternary(self)
        return models.SRS.forward(self, image)

    network.forward = types.MethodType(forward, network)


def wrapped(function):
    @functools.wraps(function)
    def other(*args):
        return 1.1 * function(*args)

    return other


def batch_statistics(network, patch):
    network.encoder_bn = "batch"
    for norm in every(network.encoder, nn.BatchNorm2d):
        norm.track_running_stats = False
    network.train(network.training)


def dilated(conv):
    if conv.kernel_size == (3, 3):
        conv.padding = conv.dilation = (2, 2)


def fuse_rows(self, last):
    return _fuse_rows(self, last) * 2


_fuse_rows = NestedDecoder._fuse_rows
_eca = blocks.EfficientChannelAttention.forward
_local = LocalContrast.forward
_shuffle = nn.Sequential.forward
_conv = nn.Conv2d.forward
_conv_forward = nn.Conv2d._conv_forward
_conv2d = F.conv2d
_dpconv = DPConv.forward
_sequential = nn.Sequential.forward
_norm = nn.BatchNorm2d.forward


def call_of_conv(network, patch):
    if "__call__" not in vars(nn.Conv2d):
        call = nn.Conv2d.__call__
        nn.Conv2d.__call__ = lambda self, x: 1.1 * call(self, x)
        patch.callback(lambda: delattr(nn.Conv2d, "__call__"))


def one_channel(network, patch):
    """A shortcut whose only channel is added to all, in a row that the comparison's small images do not reach."""
    shortcut = nn.Sequential(nn.Conv2d(16, 1, 1), nn.BatchNorm2d(1))
    network.segmenter.encode.nodes[2][0].shortcut = shortcut.train(network.training)


def one_weight(network, patch):
    """A channel attention with the same weight for all channels."""
    network.segmenter.encode.nodes[2][0].channel_attention.expand = nn.Conv2d(2, 1, 1, bias=False)


def a_map_of_each_channel(network, patch):
    network.segmenter.encode.nodes[2][0].spatial_attention.conv = nn.Conv2d(2, 16, 7, padding=3, bias=False)


def wider_inside(network, patch):
    block = network.segmenter.encode.nodes[2][0]
    block.conv1, block.bn1, block.conv2 = (
        nn.Conv2d(16, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.Conv2d(24, 16, 3, padding=1),
    )


EDITS = {
    "nothing": lambda network, patch: None,
    "no spatial attention, in place": in_place(ResidualBlock, without_spatial_attention),
    "no spatial attention, subclass": become(ResidualBlock, WithoutSpatialAttention),
    "channel attention, in place": in_place(ChannelAttention, lambda self, x: x.mean((2, 3), keepdim=True)),
    "channel attention, subclass": become(ChannelAttention, OtherChannelAttention),
    "spatial attention, in place": in_place(SpatialAttention, OtherSpatialAttention.forward),
    "spatial attention, subclass": become(SpatialAttention, OtherSpatialAttention),
    "pre-activation": become(ResidualBlock, PreActivation),
    "pre-activation, in place": in_place(ResidualBlock, PreActivation.forward),
    "a branch that is zero": rezero,
    "a branch that is zero, in place": rezero_in_place,
    "reflected padding": on_every(nn.Conv2d, reflect),
    "padding by name": on_every(nn.Conv2d, same),
    "an empty shortcut": on_every(ResidualBlock, empty_shortcut),
    "a hook on a block": hooked(lambda network: network.decode.top),
    "a hook on a block in a node": hooked(lambda network: network.decode.nodes["01"][0]),
    "a hook on a node": hooked(lambda network: network.decode.nodes["01"]),
    "a hook on a convolution": hooked(lambda network: network.decode.top.conv1),
    "a hook on a batch norm": hooked(lambda network: network.decode.top.bn2),
    "a hook on an attention": hooked(lambda network: network.decode.top.channel_attention),
    "a hook on an attention's convolution": hooked(lambda network: network.decode.top.spatial_attention.conv),
    "a hook on a shortcut": hooked(lambda network: network.decode.top.shortcut[1]),
    "a hook on the stem": hooked(lambda network: network.encode.stem[0]),
    "a hook on the head": hooked(lambda network: network.decode.head),
    "a hook on what joins": hooked(lambda network: network.decode.join),
    "a hook on what goes down": hooked(lambda network: network.encode.down),
    "a hook before": hooked(
        lambda network: network.decode.top.conv2, "register_forward_pre_hook", lambda module, inputs: 2 * inputs[0]
    ),
    "a hook on everything": hooked_everywhere,
    "parametrizations": parametrized,
    "pruning": pruned,
    "pruning for good": pruned_for_good,
    "a shared block": shared,
    "a moved block": moved,
    "frozen batch norms": frozen,
    "batch norms without weights to train": frozen_weights,
    "parts that are frozen": partly_frozen,
    "dropout": dropout,
    "LoRA, wrapped": lora,
    "LoRA, subclass": on_every(ResidualBlock, lambda block: setattr(block.conv1, "__class__", ConvLoRA)),
    "another activation": patched(blocks, "relu", F.silu),
    "another maximum": patched(blocks, "spatial_maximum", lambda x: x.mean((2, 3), keepdim=True)),
    "another upsampling": patched(nested, "up", lambda x, factor=2: F.interpolate(x, scale_factor=factor)),
    "other batch norms": other_norms,
    "no biases": no_biases,
    "forwards of instances": own_forward,
    "another activation in the stem": other_stem,
    "ECA": in_place(blocks.EfficientChannelAttention, lambda self, x: _eca(self, x) + x),
    "BLAM": in_place(BLAM, lambda self, low, deep: self.join(self.concatenate(deep, self.low(low)))),
    "local contrast": in_place(LocalContrast, lambda self, x: 2 * _local(self, x)),
    "local contrast's constant": in_place(LocalContrast, 0.5, "EPS"),
    "the shuffle": in_place(ShuffleUp, lambda self, x: 2 * _shuffle(self, x)),
    "the fusion": in_place(NestedDecoder, fuse_rows, "_fuse_rows"),
    "pooling": in_place(nested.Down, lambda self, x: F.avg_pool2d(x, 2)),
    "the input of nodes": in_place(
        nested.Join,
        lambda self, left, below, *others: torch.cat([left, F.interpolate(below, scale_factor=2), *others], 1),
    ),
    "DPConv": in_place(DPConv, lambda self, x, deep: 2 * _dpconv(self, x, deep)),
    "DPConv's gain": in_place(DPConv, lambda self, code: 2 * code.repeat_interleave(1, dim=1), "_gain"),
    "DPConv's form": lambda network, patch: setattr(network.dpconv, "form", "per_sample"),
    "a method of an instance": own_method,
    "a wrapped forward": in_place(ResidualBlock, None),  # see `edited`
    "torch's convolution": in_place(nn.Conv2d, lambda self, x: 1.1 * _conv(self, x)),
    "torch's batch norm": in_place(nn.BatchNorm2d, lambda self, x: 1.1 * _norm(self, x)),
    "torch's Sequential": in_place(nn.Sequential, lambda self, x: 1.1 * _sequential(self, x)),
    "a module that looks inside": looks_inside,
    "torch's convolution, wrapped": in_place(nn.Conv2d, wrapped(_conv_forward), "_conv_forward"),
    "torch's function of a convolution": patched(F, "conv2d", lambda *args, **more: 1.1 * _conv2d(*args, **more)),
    "torch's function of pooling": patched(F, "max_pool2d", F.avg_pool2d),
    "an activation, wrapped": patched(blocks, "relu", wrapped(F.relu)),
    "weights that a hook changes": ternary_by_a_hook,
    "weights that the forward pass changes": ternary_by_its_forward,
    "constants of batch norms": on_every(nn.BatchNorm2d, lambda norm: setattr(norm, "eps", 0.1)),
    "dilation": on_every(nn.Conv2d, dilated),
    "statistics of the batch": batch_statistics,
    "a shortcut of one channel": one_channel,
    "an attention of one weight": one_weight,
    "a spatial attention of each channel": a_map_of_each_channel,
    "a block that is wider inside": wider_inside,
    "the call of a convolution": call_of_conv,
}
UNCOPIED = {"pruning"}  # parameters that are computed: torch cannot copy them
DRAWN = {"dropout"}
# Whose effect is the same as nothing's.
SAME = {"nothing", "padding by name", "an empty shortcut", "frozen batch norms", "batch norms without weights to train"}
SAME |= {
    "parts that are frozen",
    "dropout",
    "DPConv's form",
    "a branch that is zero",
    "a branch that is zero, in place",
}


class Patch:
    """monkeypatch, and what else to undo."""

    def __init__(self, monkeypatch, request):
        self.setattr, self.callback = monkeypatch.setattr, request.addfinalizer


@pytest.fixture
def edited(monkeypatch, request):
    """Networks with the edit of that name; the classes are edited once, and by the second network before it runs."""
    patch = Patch(monkeypatch, request)
    once = set()

    def make(name):
        network = small()
        if name == "a wrapped forward":

            @functools.wraps(ResidualBlock.forward)
            def forward(self, x):
                return without_spatial_attention(self, x)

            patch.setattr(ResidualBlock, "forward", forward)
        elif not (name in once and name == "a hook on everything"):
            EDITS[name](network, patch)
        once.add(name)
        return network

    return make


TAKE_LONG = ("a shared block", "weights that the forward pass changes")  # in prediction, half a minute each


def largest(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in TAKE_LONG else n for n in EDITS])
def test_in_prediction(name, edited):
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = small().eval()(images)
        plain, network = edited(name).eval(), edited(name).eval()
        expected = plain(images)
        assert (largest(expected, before) > 2e-5) == (name not in SAME), "the edit has no effect"
        assert largest(load_engine("torch", network, OFF)(images), expected) < 1e-5
    with torch.inference_mode():
        assert largest(prediction(network, OFF)[0](images), expected) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", EDITS)
def test_in_training(name, edited):
    """In float64, where no maximum tips over."""
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    results = []
    for fast in (False, True):
        network = edited(name).double().train()
        with speed.training(network, CPU) if fast else nullcontext():
            torch.manual_seed(1)
            loss = network(images).square().mean()
            loss.backward()
        assert not any("Fast" in type(module).__name__ for module in network.modules())
        gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
        results.append({"loss": loss.detach(), **gradients, **dict(network.named_buffers())})
    plain, fast = results
    assert plain.keys() == fast.keys()
    usual = max(value.norm() for key, value in gradients.items() if value is not None)
    for key, value in plain.items():
        assert (value is None) == (fast[key] is None), key
        if value is not None:
            error = (value - fast[key]).double().norm()
            assert error <= 1e-8 * (value.double().norm() + usual), key


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["nothing", "no spatial attention, in place", "reflected padding", "a branch that is zero"]
)
def test_at_256_pixels(name, edited):
    """Where the fast forms pay, whose thresholds are not reached at 64 pixels."""
    images = torch.randn(2, 3, 256, 256).to(memory_format=torch.channels_last)
    plain, network = (edited(name).to(memory_format=torch.channels_last) for _ in range(2))
    with torch.no_grad():
        assert largest(load_engine("torch", network, OFF)(images), plain.eval()(images)) < 1e-5
    outputs = []
    for each, context in ((plain, nullcontext()), (network, speed.training(network, CPU))):
        with context:
            outputs.append(each.train()(images).detach())
    assert largest(*outputs) < 1e-4
    for (key, buffer), other in zip(plain.named_buffers(), network.buffers(), strict=True):
        assert torch.allclose(buffer, other, rtol=1e-4, atol=1e-5), key


@pytest.mark.parametrize(
    "name",
    [
        "no spatial attention, in place",
        "pre-activation",
        "another activation",
        "a hook on a block",
    ],
)
def test_in_an_exported_file(name, edited, tmp_path):
    network = edited(name).eval()
    images = torch.randn(1, 3, 32, 40)
    path = tmp_path / "srs.pt"
    export_model(network, "torchscript", path, "imagenet", {}, say=lambda line: None)
    with torch.no_grad():
        assert largest(FORMATS["torchscript"].open(path, 1)(images), network(images)) < 1e-5


def test_an_edit_that_takes_no_small_image_is_refused_in_one_line(edited, tmp_path):
    """An exported file takes images from 8x8 on; a map of one row has nothing to reflect."""
    with pytest.raises(UserError, match=r"srs\.pt was not written: .*[Pp]adding size") as caught:
        export_model(edited("reflected padding").eval(), "torchscript", tmp_path / "srs.pt", "imagenet", {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "a hook on a block",
        "forwards of instances",
        "LoRA, wrapped",
        "channel attention, in place",
        "another activation",
        "an activation, wrapped",
        "torch's convolution, wrapped",
        "torch's function of a convolution",
        "torch's function of pooling",
        "constants of batch norms",
        "dilation",
        "statistics of the batch",
        "weights that a hook changes",
        "a shortcut of one channel",
        "an attention of one weight",
        "a spatial attention of each channel",
        "the call of a convolution",
    ],
)
def test_an_edit_that_comes_later(name, edited, monkeypatch, request):
    """After the engine was loaded, and in the midst of training."""
    images = torch.randn(2, 3, 64, 64)
    network, trained = small().eval(), small().double().train()
    run = load_engine("torch", network, OFF)
    with speed.training(trained, CPU):
        first = trained(images.double()).detach()
        run(images)
        patch = Patch(monkeypatch, request)
        torch.manual_seed(2)
        EDITS[name](network, patch)
        torch.manual_seed(2)
        EDITS[name](trained.double(), patch)
        trained.double()
        found = trained(images.double()).detach()
    with torch.no_grad():
        assert largest(run(images), network(images)) < 1e-5
        assert largest(found, first) > 1e-4
        assert largest(found, copy.deepcopy(trained)(images.double())) < 1e-9


@pytest.mark.parametrize("way", ["hook", "forward"])
def test_each_edit_of_a_loop_takes_effect(way):
    """Whose number of hooks and functions stays the same."""
    images, network = torch.randn(1, 3, 32, 32), small().eval()
    run, head, seen = load_engine("torch", network, OFF), network.segmenter.decode.head, []
    node = network.segmenter.encode.nodes[1]
    for channel in range(3):
        if way == "forward":
            head.forward = lambda x, by=channel + 1: by * F.conv2d(x, head.weight, head.bias)
        else:

            def ablate(module, inputs, output, channel=channel):
                return output.index_fill(1, torch.tensor([channel]), 0)

            handle = node.register_forward_hook(ablate)
        with torch.no_grad():
            expected = network(images)
        assert largest(run(images), expected) < 1e-5
        assert not seen or largest(expected, seen[-1]) > 1e-3
        seen.append(expected)
        if way == "hook":
            handle.remove()


@pytest.mark.parametrize(
    ("kind", "way"),
    [(dict, "another value"), (argparse.Namespace, "another object"), (types.SimpleNamespace, "another value")],
)
def test_a_setting_in_a_dict_or_namespace_takes_effect_later(kind, way):
    class Scaled(models.SRS):
        def forward(self, image):
            settings = self.settings if isinstance(self.settings, dict) else vars(self.settings)
            return super().forward(image) * settings["scale"]

    images, network = torch.randn(1, 3, 32, 32), small().eval()
    network.__class__, network.settings = Scaled, kind(scale=1.0)
    run = load_engine("torch", network, OFF)
    run(images)
    if way == "another object":
        network.settings = kind(scale=3.0)
    elif kind is dict:
        network.settings["scale"] = 3.0
    else:
        network.settings.scale = 3.0
    with torch.no_grad():
        assert largest(run(images), network(images)) < 1e-5


class Collects(nn.Module):
    """A network with a second head on a feature that a hook keeps."""

    def __init__(self, way):
        super().__init__()
        self.network, self.kept, self.aux = small(), {}, nn.Conv2d(16, 1, 1)
        kept = self.kept
        keep = {
            "bound": self.keep,
            "lambda": lambda module, inputs, output: setattr(self, "feature", output),
            "dict": lambda module, inputs, output: kept.update(feature=output),
            "partial": functools.partial(keep_in, self.kept),
        }[way]
        self.network.segmenter.encode.nodes[1].register_forward_hook(keep)

    def keep(self, module, inputs, output):
        self.feature = output

    def forward(self, image):
        y = self.network(image)
        feature = self.kept["feature"] if self.kept else self.feature
        return 0.1 * y + F.interpolate(self.aux(feature), size=y.shape[2:])


def keep_in(kept, module, inputs, output):
    kept["feature"] = output


@pytest.mark.parametrize("way", ["bound", "lambda", "dict", "partial"])
def test_what_a_hook_keeps_for_the_forward_is_of_the_same_images(way, tmp_path, monkeypatch):
    network, images = Collects(way).eval(), torch.randn(2, 3, 32, 40)
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 40))
        expected = network(images)
        network(torch.randn(2, 3, 32, 40))
    assert "a hook refers to a part of the network" in prediction(network, OFF)[1].warning
    assert largest(load_engine("torch", network, OFF)(images), expected) < 1e-5
    with monkeypatch.context() as patch:  # without models/fast
        patch.setattr(speed, "_fast", lambda: None)
        assert largest(load_engine("torch", network, OFF)(images), expected) < 1e-5
    with pytest.raises(UserError, match=r"srs\.pt was not written: a hook refers to a part of the network"):
        export_model(network, "torchscript", tmp_path / "srs.pt", "imagenet", {}, say=lambda line: None)


def test_threads_that_share_an_engine_see_an_edit_at_once():
    images, network = torch.randn(1, 3, 32, 32), small().eval()
    run = load_engine("torch", network, OFF)
    network.segmenter.decode.head.register_forward_hook(lambda module, inputs, output: 3 * output)
    with torch.no_grad():
        expected = network(images)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(images), range(8)):
            assert largest(found, expected) < 1e-5


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16")
def test_a_part_without_autocast_keeps_its_precision():
    class Island(models.SRS):
        def _deep(self, image):
            with torch.autocast("cpu", enabled=False):
                return super()._deep(image)

    network, images = small().eval(), torch.randn(2, 3, 32, 32)
    network.__class__ = Island
    found, how = prediction(network, BF16)
    assert "autocast is off in a part of the network" in how.warning
    with torch.no_grad(), BF16.autocast():
        assert torch.equal(found.deep_features(images), network.deep_features(images))


def test_functional_calls_in_training_are_plain():
    """As for MAML: a step with other weights, differentiated through the first one."""

    def second_order(network, x):
        weights = {name: value for name, value in network.named_parameters() if value.requires_grad}
        loss = functional_call(network, weights, (x,)).square().mean()
        steps = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        inner = {name: value - 0.01 * step for (name, value), step in zip(weights.items(), steps, strict=True)}
        return torch.autograd.grad(functional_call(network, inner, (x,)).square().mean(), list(weights.values()))

    x, network = torch.randn(2, 3, 16, 16, dtype=torch.float64), small().double().train()
    expected = second_order(copy.deepcopy(network), x)
    with speed.training(network, CPU):
        found = second_order(network, x)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-10)


class Doubles(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        return 2 * found if function is torch.conv2d else found


def test_a_mode_of_torch_takes_effect():
    images = torch.randn(2, 3, 32, 32)
    network, trained = small().eval(), [small().double().train() for _ in range(2)]
    run = load_engine("torch", network, OFF)
    with Doubles(), torch.no_grad():
        assert largest(run(images), network(images)) < 1e-5
    with torch.no_grad():
        assert largest(run(images), network(images)) < 1e-5
    for each, context in zip(trained, (nullcontext(), speed.training(trained[1], CPU)), strict=True):
        with context:
            with Doubles():
                loss = each(images.double()).square().mean()
            loss.backward()
    for ours, theirs in zip(*(network.parameters() for network in trained), strict=True):
        assert ours.grad is theirs.grad is None or torch.allclose(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("way", ["training", "prediction"])
def test_hooks_record_the_users_images_alone(way):
    class Recorder:
        def __init__(self):
            self.seen = []

        def record(self, module, inputs, output):
            self.seen.append(output.shape[-2:])

    network, recorder = small().train(way == "training"), Recorder()
    network.segmenter.decode.top.register_forward_hook(recorder.record)
    network.segmenter.decode.top.register_forward_hook(lambda *call: recorder.record(*call))
    images = torch.randn(2, 3, 24, 32)
    if way == "training":
        with speed.training(network, CPU):
            network(images)
    else:
        load_engine("torch", network, OFF)(images)
    assert recorder.seen == [(24, 32)] * 2


def test_below_a_hooked_module_all_is_plain():
    network = small().train()
    network.segmenter.decode.register_forward_pre_hook(lambda module, inputs: None)
    with speed.training(network, CPU) as found:
        assert not any("Fast" in type(module).__name__ for module in network.segmenter.decode.modules())
        assert any("Fast" in type(module).__name__ for module in network.segmenter.encode.modules())
    assert found.warning == "edited modules run in their slower plain form: segmenter.decode (NestedDecoder)"
    network.register_forward_pre_hook(lambda module, inputs: None)
    assert prediction(network, OFF)[1].warning.endswith("form: the network (SRS)")


class StochasticDepth(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        draws = random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002 - the global generator
        return self.block(x) if min(draws) > 0.2 else x


def random_states():
    numpys = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global generator
    return random.getstate(), numpys, torch.get_rng_state().tolist()


def test_the_comparison_leaves_no_trace():
    """Not in the random generators, and not in gradients, which a function of a copy may give to the original."""
    network = small().train()
    node = network.segmenter.encode.nodes[0]
    node[1] = StochasticDepth(node[1])
    head = network.segmenter.decode.head
    head.forward = lambda x: 2 * F.conv2d(x, head.weight, head.bias)
    before = random_states()
    with speed.training(network, CPU) as found:
        assert "ResidualBlock" in found.words and "slower plain network" not in found.warning
    assert random_states() == before
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_types(dtype):
    images = torch.randn(2, 3, 32, 32)
    network, plain = small().eval().to(dtype), small().eval().to(dtype)
    with torch.no_grad():
        expected = plain(images[:1].to(dtype)).float()  # of a single image, for which DPConv has a fast form
        assert largest(load_engine("torch", network, OFF)(images[:1]), expected) < 1e-6
    for each, context in ((plain.train(), nullcontext()), (network, speed.training(network.train(), CPU))):
        with context:
            each(images.to(dtype)).square().mean().backward()
    for ours, theirs in zip(network.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("way", ["training", "prediction"])
def test_numbers_find_what_the_source_does_not_show(way, monkeypatch, capsys):
    """As if the twins had been written for another block: the plain network runs, and a line says so."""
    monkeypatch.setattr(ResidualBlock, "forward", without_spatial_attention)
    monkeypatch.setattr(comparison, "_agreed", {})  # other tests have compared this structure
    monkeypatch.setitem(fingerprints.RECORDED, "ResidualBlock", fingerprints.fingerprint(ResidualBlock))
    network = small().double() if way == "training" else small()
    images = torch.randn(1, 3, 64, 64, dtype=next(network.parameters()).dtype)
    if way == "training":
        with speed.training(network.train(), CPU) as found:
            fast = network(images).detach()
        expected = small().double().train()(images)
    else:
        made, found = speed.prediction(network.eval(), OFF)
        fast, expected = made(images).detach(), small().eval()(images)
    assert torch.equal(fast, expected)
    assert "the slower plain network runs: the fast form of" in found.warning
    assert "ResidualBlock" in found.warning or "nodes.0.0" in found.warning


def test_a_gradient_that_is_missing_is_a_difference():
    def freeze_a_bias(network, allowed):
        network.bias.requires_grad_(not allowed("bias"))
        return ["bias"]

    network = nn.Conv2d(3, 2, 3)
    assert "the gradient of bias by inf" in comparison.difference(network, freeze_a_bias, training=True)


def plain_calls(run):
    """The classes whose plain forward runs within a call, of those that have a twin."""
    codes, called = {cls.forward.__code__: cls.__name__ for cls in KNOWN if cls is not nn.BatchNorm2d}, set()
    sys.setprofile(lambda frame, event, _: called.add(codes.get(frame.f_code)) if event == "call" else None)
    try:
        run()
    finally:
        sys.setprofile(None)
    return called - {None}


def test_no_twin_of_an_unedited_network_falls_back():
    """What is reported as fast runs fast."""
    images = torch.randn(1, 3, 64, 64)
    run, network = load_engine("torch", small().eval(), OFF), small().train()
    assert "plain" not in run.speed.words
    assert plain_calls(lambda: run(images)) == set()
    with speed.training(network, CPU) as found:
        assert "plain" not in found.words
        called = plain_calls(lambda: network(images))
    assert called <= {"Down", "DPConv"}, "these are the same in training"


def test_a_line_names_what_runs_plain():
    network = small().train()
    network.segmenter.decode.top.register_forward_hook(lambda module, inputs, output: output)
    with speed.training(network, CPU) as found:
        assert type(network.segmenter.decode.nodes["01"][0]).__name__ == "FastResidualBlock"
        assert type(network.segmenter.decode.top) is ResidualBlock
    assert "segmenter.decode.top (ResidualBlock)" in found.words and "ResidualBlock" in found.words.split(";")[0]
    assert found.warning == "edited modules run in their slower plain form: segmenter.decode.top (ResidualBlock)"


def test_fingerprints_are_those_on_record():
    found = {cls.__name__: fingerprints.fingerprint(cls) for cls in fingerprints.CLASSES}
    assert found == fingerprints.RECORDED, "if the twins follow the method again, record these"


def test_a_fingerprint_is_of_what_runs(monkeypatch):
    before = fingerprints.fingerprint(ResidualBlock)
    for owner, name, value in (
        (ResidualBlock, "forward", without_spatial_attention),
        (ResidualBlock, "__call__", without_spatial_attention),
        (ChannelAttention, "forward", SpatialAttention.forward),
        (blocks, "relu", F.silu),
        (blocks, "relu", wrapped(F.relu)),
        (blocks, "spatial_maximum", nested.up),
        (dpconv, "ChannelAttention", SpatialAttention),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, value, raising=False)
            assert (fingerprints.fingerprint(ResidualBlock) == before) == (owner is dpconv), name
            assert fingerprints.as_recorded(ResidualBlock) == (owner is dpconv), name
        assert fingerprints.as_recorded(ResidualBlock)
