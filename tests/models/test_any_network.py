"""A layer at the deepest map of networks that are not SRS."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small import need
from torch import nn

import models
from utils.networks.checkpoints import load_checkpoint, save_checkpoint
from utils.networks.export import export_model


class Plain(nn.Module):
    """A network whose deepest map is a single map, at 1/4 of the image."""

    def __init__(self, channels=64):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, channels, 3, 4, 1), nn.BatchNorm2d(channels), nn.ReLU())
        self.up = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Upsample(scale_factor=4))

    def forward(self, image):
        return self.up(self.down(image))


class Pyramid(nn.Module):
    """A network whose encoder gives a list of maps, the deepest last."""

    def __init__(self):
        super().__init__()
        self.encoder = models.NestedUNet((8, 8, 8, 64), (1, 1, 1, 1), 8, 1, False).encode
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, image):
        *shallow, deepest = self.encoder(image)
        assert len(shallow) == 3
        return nn.functional.interpolate(self.head(deepest), scale_factor=8.0)


def encoder(channels=64):
    torch.manual_seed(1)
    return models.NestedUNet((8, 8, 8, channels), (1, 1, 1, 1), 8, 3, False).encode


@pytest.mark.parametrize("layer", models.layers())
@pytest.mark.parametrize(("make", "deepest"), [(Plain, "down"), (Pyramid, "encoder")])
def test_the_deepest_map_gets_the_term_of_the_layer(make, deepest, layer):
    network = make().eval()
    model = models.with_dynamic(network, encoder(), layer, deepest, multiple=8).eval()
    image = torch.randn(2, 3, 16, 24)
    part = network.get_submodule(deepest)
    maps = part(image)
    x = maps if torch.is_tensor(maps) else maps[-1]
    x = x + model.dpconv(x, model.encoder(image)[-1])
    changed = copy.deepcopy(network)
    replaced = x if torch.is_tensor(maps) else [*maps[:-1], x]
    setattr(changed, deepest, Gives(replaced))
    torch.testing.assert_close(model(image), changed(image))
    assert model(image[:1, :1, :9, :11]).shape == (1, 1, 9, 11), "gray, and any size"
    assert not part._forward_hooks, "the network is as it was"


class Gives(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, image):
        return self.result


@pytest.mark.parametrize(
    ("channels", "deep_channels", "read", "inside"),
    [(64, 64, 64, 64), (128, 64, 64, 128), (352, 64, 32, 352), (20, 64, 24, 24), (64, 72, 64, 64), (24, 16, 8, 24)],
)
def test_channels_that_do_not_divide_get_a_1x1_convolution(channels, deep_channels, read, inside):
    model = models.with_dynamic(Plain(channels), encoder(deep_channels), deepest="down").eval()
    image = torch.randn(1, 3, 32, 32)
    assert model.deep_features(image).shape[1] == read
    assert (model.dpconv.in_channels, model.dpconv.source_channels) == (inside, read)
    sides = {"narrow": read == deep_channels, "widen": inside == channels, "back": inside == channels}
    for name, same in sides.items():
        assert isinstance(getattr(model, name), nn.Identity if same else nn.Conv2d), name
    assert model(image).shape == (1, 1, 32, 32)


def test_the_encoder_is_frozen_and_all_else_is_trained():
    network = Plain().train()
    before = copy.deepcopy(network.state_dict())
    model = models.with_dynamic(network, encoder(), deepest="down").train()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.down.training and not model.encoder.training
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.trained_parameters())
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert len(model.trained_parameters()) == len(list(model.parameters())) - len(list(model.encoder.parameters()))


def test_an_encoder_that_is_a_part_of_the_network_is_frozen_there_and_a_copy_is_not():
    networks = Pyramid(), Pyramid()
    models.with_dynamic(networks[0], networks[0].encoder)
    models.with_dynamic(networks[1], copy.deepcopy(networks[1].encoder))
    trained = [any(p.requires_grad for p in network.encoder.parameters()) for network in networks]
    assert trained == [False, True]


class Kinds(nn.Module):
    """A network whose encoder gives a dict, as those of torchvision do, or a tuple; it wants sides of 128 pixels."""

    def __init__(self, kind):
        super().__init__()
        self.encoder = Deepest(kind)
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, image):
        assert not (image.shape[2] % 128 or image.shape[3] % 128)
        maps = self.encoder(image)
        assert type(maps) is self.encoder.kind
        return nn.functional.interpolate(
            self.head(list(maps.values())[-1] if isinstance(maps, dict) else maps[-1]), scale_factor=8.0
        )


class Deepest(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.down = kind, nn.Conv2d(3, 64, 8, 8)

    def forward(self, image):
        maps = {"shallow": image, "out": self.down(image)}
        return self.kind(maps if issubclass(self.kind, dict) else maps.values())


@pytest.mark.parametrize("kind", [dict, OrderedDict, tuple, list])
def test_maps_of_every_kind_in_double_precision(kind):
    model = models.with_dynamic(Kinds(kind).double(), encoder().double(), multiple=128).eval()
    image = torch.randn(1, 3, 20, 30).double()
    found = model(image)
    assert found.shape == (1, 1, 20, 30) and found.dtype == torch.float64
    with torch.no_grad():
        model.dpconv.expand.weight.zero_()
    assert (model(image) - found).abs().max() > 0


def test_threads_may_share_a_network():
    model = models.with_dynamic(Plain(), encoder(), deepest="down").eval()
    images = torch.randn(4, 1, 3, 32, 32)
    with torch.no_grad():
        model.dpconv.expand.weight.normal_()
        expected = [model(image) for image in images]

    def many(number):
        with torch.no_grad():
            return all(torch.equal(model(images[number]), expected[number]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"a submodule of the network \(down, up, \.\.\.\), got 'encoder'$"):
        models.with_dynamic(Plain(), encoder())
    with pytest.raises(ValueError, match="unknown layer 'odd'"):
        models.with_dynamic(Plain(), encoder(), "odd", "down")
    with pytest.raises(ValueError, match=r"must be \(B, C, h, w\)"):
        models.with_dynamic(nn.Sequential(Plain(), nn.Flatten()), encoder(), deepest="1")
    twice = Plain()
    twice.up = nn.Sequential(nn.Conv2d(64, 3, 1), nn.Upsample(scale_factor=16), twice.down, nn.Conv2d(64, 1, 1))
    with pytest.raises(ValueError, match="called 2 times"):
        models.with_dynamic(twice, encoder(), deepest="down")


def train(model, path):
    """A few steps, and the way through a checkpoint. Returns the losses."""
    torch.manual_seed(2)
    images = torch.randn(2, 3, 64, 64)
    masks = (images.mean(1, keepdim=True) > 0).float()
    optimizer = torch.optim.Adam(model.trained_parameters(), lr=0.003)
    losses = []
    model.train()
    for _ in range(3):
        loss = nn.functional.binary_cross_entropy_with_logits(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    save_checkpoint(path, {"phase": "seg", "model": model.state_dict(), "settings": {}})
    return losses


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["Unet", "UnetPlusPlus", "FPN", "MAnet", "Linknet", "DeepLabV3Plus"])
def test_networks_of_segmentation_models_pytorch(name, tmp_path):
    """Trained, checkpointed, evaluated and exported."""
    smp = pytest.importorskip("segmentation_models_pytorch")

    def make():
        network = getattr(smp, name)("resnet18", encoder_weights=None, classes=1)
        return models.with_dynamic(network, encoder())

    torch.manual_seed(0)
    model = make()
    assert model.dpconv.in_channels == 512
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(map(math.isfinite, train(model, tmp_path / "best.pth")))
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {"dpconv.expand.weight", "network.segmentation_head.0.weight"} <= moved
    assert not any(name.startswith("encoder.") for name in moved)
    again = make()
    again.load_state_dict(load_checkpoint(tmp_path / "best.pth", "seg")["model"])
    image = torch.randn(1, 3, 70, 45)
    assert torch.equal(again.eval()(image), model.eval()(image))
    need("onnx", "onnxruntime")
    export_model(again, "onnx", tmp_path / "model.onnx", "imagenet", {}, say=lambda line: None)
