"""Each loss against its source written another way; names without torch; earlier runs resume."""

from __future__ import annotations

import argparse

import pytest
import torch

import train_seg
from utils.common.errors import UserError
from utils.settings.config import with_defaults
from utils.settings.provenance import list_hashes
from utils.training import losses
from utils.training.losses import bce
from utils.training.run_state import refuse_another_run


def drawn(batch=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, 1, 6, 5, generator=generator, dtype=dtype)
    return logits, (torch.rand(batch, 1, 6, 5, generator=generator) > 0.6).to(dtype)


def test_the_names_are_those_of_the_files():
    assert {"bce", "bce_dice", "dice", "focal_tversky"} <= set(losses.names())
    with pytest.raises(ValueError, match=r"unknown loss 'l1'.*bce_dice"):
        losses.load("l1")


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda logits, targets: logits.mean(), r"got \(\)"),
        (lambda logits, targets: logits.mean().view(1), r"got \(1,\)"),
        (lambda logits, targets: logits, r"got \(3, 1, 6, 5\)"),
        (lambda logits, targets: 0.5, "got float"),
    ],
)
def test_a_loss_that_is_not_of_each_image_is_refused(monkeypatch, loss, got):
    """With (1,), all figures of the log would be wrong without a word."""
    monkeypatch.setattr(bce, "loss", loss)
    with pytest.raises(UserError, match=rf"^--loss bce must return one value for each image, \(3,\), {got}$"):
        losses.load("bce")(*drawn())


def test_a_loss_file_that_cannot_be_used_is_one_line(monkeypatch):
    monkeypatch.delattr(bce, "loss")
    with pytest.raises(UserError, match=r"^--loss bce: [^\n]*has no attribute 'loss'$"):
        losses.load("bce")


@pytest.mark.parametrize(
    "returned", [lambda image: {"out": image[:, :1]}, lambda image: image[:, :2]], ids=["dict", "two"]
)
def test_a_network_that_returns_something_else_is_refused(returned):
    batch = {"image": torch.randn(2, 3, 8, 8), "mask": torch.zeros(2, 1, 8, 8)}
    with pytest.raises(UserError, match=r"must return logits of shape \(2, 1, 8, 8\), got (dict|\(2, 2, 8, 8\))$"):
        train_seg.Segmentation(None).step(returned, batch)


@pytest.mark.parametrize("name", losses.names())
def test_a_loss_is_of_each_image_and_has_the_right_gradient(name):
    logits, targets = drawn()
    loss = losses.load(name)
    found = loss(logits, targets)
    assert found.shape == (3,)
    assert torch.equal(found[1:2], loss(logits[1:2], targets[1:2])), "its neighbours in the batch do not count"
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), logits.requires_grad_())


@pytest.mark.parametrize("name", losses.names())
def test_a_perfect_prediction_costs_nothing_and_has_a_finite_gradient(name):
    targets = drawn(dtype=torch.float32)[1]
    for target in (targets, torch.zeros_like(targets)):
        logits = (200 * target - 100).requires_grad_()
        found = losses.load(name)(logits, target)
        found.sum().backward()
        assert found.max() < 1e-4 and logits.grad.isfinite().all()


def test_dice_and_tversky_are_monais():
    monai = pytest.importorskip("monai.losses")
    logits, targets = drawn()
    dice = monai.DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5, reduction="none")(logits, targets).flatten()
    assert torch.allclose(losses.load("dice")(logits, targets), dice)
    smooth = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    index = monai.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, reduction="none", **smooth)(logits, targets).flatten()
    assert torch.allclose(losses.load("focal_tversky")(logits, targets), index**0.75)


def test_a_missed_pixel_costs_more_than_a_false_one_in_focal_tversky():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    missed, false = 20 * target - 10, 20 * target - 10
    missed[..., 0, 0], false[..., 3, 3] = -10, 10
    loss = losses.load("focal_tversky")
    assert loss(missed, target) > loss(false, target)


def test_bce_dice_is_half_of_bce_and_dice():
    both = drawn()
    parts = 0.5 * losses.load("bce")(*both) + losses.load("dice")(*both)
    assert torch.equal(losses.load("bce_dice")(*both), parts)
    assert torch.equal(losses.BCEDiceLoss(reduction="none")(*both), parts)


def test_a_loss_is_a_key_at_the_top_level_of_a_configuration(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("base_dir: x\nloss: dice\n")
    assert train_seg.settings(["--config", str(path)]).loss == "dice"
    path.write_text("base_dir: x\nloss: l1\n")
    with pytest.raises(UserError, match=r"own\.yaml.*loss.*'l1'.*bce_dice"):
        train_seg.settings(["--config", str(path)])


def test_a_run_of_before_a_setting_has_todays_default(tmp_path):
    """A checkpoint without `loss` resumes with the loss it was trained with, and with no other."""
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("case\n")
    now = train_seg.settings(["--base_dir", str(tmp_path)])
    before = {name: value for name, value in vars(now).items() if name != "loss"}
    previous = {"settings": before, "provenance": {"lists": list_hashes(now)}}
    refuse_another_run(previous, now, tmp_path / "last.pth")
    with pytest.raises(UserError, match="loss was bce_dice, now dice"):
        refuse_another_run(previous, argparse.Namespace(**{**vars(now), "loss": "dice"}), tmp_path / "last.pth")
    assert with_defaults({"loss": "dice"})["loss"] == "dice"
