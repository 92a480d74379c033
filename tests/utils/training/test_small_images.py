"""A network that rounds the authors' tiny images away in mixed precision is named before the training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
import train_seg
from datasets.prepare.sample import make_sample
from models.baselines import unext
from utils.common.precision import Precision
from utils.training.small_images import rounding_warning


class OnTokens(nn.Module):
    """Embedding and layer norm on (B, H, W, C), as a transformer begins."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 16, 4, 4, bias=bias), nn.LayerNorm(16), nn.Linear(16, 1)

    def forward(self, image):
        return self.head(self.norm(self.embed(image).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def convolutional(norm: nn.Module, bias: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=bias), norm, nn.ReLU(), nn.Conv2d(16, 1, 1))


def warned(network: nn.Module, normalization: str = "authors", amp: str = "bf16") -> bool:
    return rounding_warning(network, normalization, Precision(amp, torch.device("cpu"))) is not None


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_bias_that_takes_the_digits(bias):
    for norm in (nn.BatchNorm2d(16), nn.InstanceNorm2d(16), nn.GroupNorm(4, 16)):
        assert warned(convolutional(norm, bias)) == bias
    assert warned(OnTokens(bias)) == bias


def test_nothing_to_warn_of():
    network = convolutional(nn.BatchNorm2d(16), True)
    assert not warned(network, normalization="imagenet")
    assert not warned(network, amp="off")
    assert not warned(nn.Conv2d(3, 1, 1))  # no norm
    assert not any(warned(models.build(name)) for name in models.networks())
    assert not warned(models.build_reconstruction())


def test_the_network_stays_as_it_was():
    network = convolutional(nn.BatchNorm2d(16), True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert warned(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training and not network[1]._forward_pre_hooks


def test_a_training_says_so_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(unext, "build", lambda: convolutional(nn.BatchNorm2d(16), True))
    make_sample(tmp_path / "set", count=8, size=32)
    flags = "--variant unext --normalization authors --amp bf16 --img_size 32 --batch_size 4 --workers 0 --epochs 2"
    argv = ["--base_dir", str(tmp_path / "set"), "--output_dir", str(tmp_path), "--device", "cpu", *flags.split()]
    train_seg.main(train_seg.settings(argv))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "too coarse" in line]
    assert line.startswith("warning: --amp bf16") and "--amp off" in line
