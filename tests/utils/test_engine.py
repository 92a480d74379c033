"""The engine's mechanics, with a phase of one convolution in place of a network that takes minutes."""

from __future__ import annotations

import argparse
import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from datasets.folder import SegmentationFolder, make_loader
from datasets.load import load_lists
from datasets.transforms import Transform
from utils.checkpoint import load_checkpoint
from utils.engine import fit
from utils.errors import UserError
from utils.logs import read_log
from utils.schedule import sgd_with_poly_decay


class Toy:
    """Predicts the mask from the image with one convolution."""

    name = "toy"
    watch, higher_is_better = "loss", False
    watch_from = 0

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Conv2d(3, 1, 3, padding=1)
        self.steps = 0
        self.fail_at = None
        self.failure = KeyboardInterrupt
        self.validation_losses = None

    def step(self, batch):
        if torch.is_grad_enabled():
            self.steps += 1
            if self.steps == self.fail_at:
                if self.failure is not None:
                    raise self.failure
                batch["image"][:] = float("nan")
        losses = (self.model(batch["image"]) - batch["mask"]).square().mean((1, 2, 3))
        if self.validation_losses is not None and not torch.is_grad_enabled():
            losses = torch.full_like(losses, self.validation_losses[self.steps // 4 - 1])
        return losses.mean(), {"loss": losses}

    def draw(self, batch):
        return [
            [self.model(image[None])[0, 0].numpy(), mask[0].numpy()]
            for image, mask in zip(batch["image"], batch["mask"], strict=True)
        ]


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    base = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (base / folder).mkdir()
    for i in range(9):
        cv2.imwrite(str(base / "images" / f"{i}.png"), rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        cv2.imwrite(str(base / "masks" / f"{i}.png"), np.eye(8, dtype=np.uint8) * 255)
    (base / "train.txt").write_text("0\n1\n2\n3\n4\n5\n6\n")
    (base / "val.txt").write_text("7\n8\n")
    cases = load_lists(base, {"train": "train.txt", "val": "val.txt"})

    def make():
        train = SegmentationFolder(cases["train"], Transform(8, augment=True))
        val = SegmentationFolder(cases["val"], Transform(8))
        return make_loader(train, 2, 0, shuffle_seed=1), make_loader(val, 2, 0)  # 4 steps an epoch

    return make


def settings(**changes):
    values = {"epochs": 3, "base_lr": 0.05, "device": "cpu", "resume": False, "img_size": 8, "Dataset": "toy"}
    return argparse.Namespace(**{**values, **changes})


def run(phase, loaders, folder, **changes):
    fit(phase, *loaders(), settings(**changes), folder)
    return load_checkpoint(folder / "last.pth", phase.name)


def test_what_a_run_leaves(loaders, tmp_path):
    phase = Toy()
    last = run(phase, loaders, tmp_path / "toy")
    log = read_log(tmp_path / "toy" / "log.jsonl")
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert all({"train", "val", "learning_rate", "seconds"} <= entry.keys() for entry in log)
    assert log[-1]["train"]["loss"] < log[0]["train"]["loss"]
    assert last["epoch"] == 3 and last["settings"]["img_size"] == 8 and last["figures"] == log[-1]["val"]
    assert torch.equal(last["model"]["weight"], phase.model.weight)
    assert (tmp_path / "toy" / "validation.png").stat().st_size > 0
    assert list((tmp_path / "toy" / "tensorboard").glob("events*"))


def test_figures_are_means_over_images_not_batches(loaders, tmp_path):
    phase = Toy()
    phase.model.requires_grad_(False).weight.zero_()
    phase.model.bias.requires_grad_(True)
    train, val = loaders()
    fit(phase, train, val, settings(epochs=1, base_lr=0.0), tmp_path)
    with torch.no_grad():
        single = [phase.step({**val.collate_fn([val.dataset[i]])})[0].item() for i in range(2)]
    assert read_log(tmp_path / "log.jsonl")[0]["val"]["loss"] == pytest.approx(np.mean(single), rel=1e-6)


@pytest.mark.parametrize(
    ("losses", "higher", "watch_from", "best"),
    [
        ([3, 1, 2], False, 0, 2),
        ([3, 1, 2], True, 0, 1),
        ([1, 3, 2], False, 1, 3),
        ([1, 3, 2], False, 9, 3),  # a run shorter than that still has a best epoch: its last
        ([2, 2, 2], False, 0, 1),
        ([float("nan"), 3, 2], False, 0, 3),
        ([float("nan"), 2, 3], True, 0, 3),
    ],
)
def test_best_epoch(loaders, tmp_path, losses, higher, watch_from, best):
    phase = Toy()
    phase.validation_losses, phase.higher_is_better, phase.watch_from = losses, higher, watch_from
    last = run(phase, loaders, tmp_path)
    assert last["best"] == {"epoch": best, "loss": losses[best - 1]}
    assert load_checkpoint(tmp_path / "best.pth", "toy")["epoch"] == best


@pytest.mark.parametrize("fail_at", [3, 6, 9])
def test_an_interrupted_run_goes_on_to_the_same_end(loaders, tmp_path, fail_at):
    whole = run(Toy(), loaders, tmp_path / "whole")
    phase = Toy()
    phase.fail_at = fail_at
    with pytest.raises(KeyboardInterrupt):
        run(phase, loaders, tmp_path / "cut", resume=True)
    resumed = run(Toy(), loaders, tmp_path / "cut", resume=True)
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name])
    assert torch.equal(
        whole["optimizer"]["state"][0]["momentum_buffer"], resumed["optimizer"]["state"][0]["momentum_buffer"]
    )
    assert whole["best"] == resumed["best"] and whole["schedule"] == resumed["schedule"]
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "cut")]
    for entry in (*logs[0], *logs[1]):
        del entry["seconds"]
    assert logs[0] == logs[1]


def test_a_finished_run_resumed_changes_nothing(loaders, tmp_path):
    run(Toy(), loaders, tmp_path)
    before = (tmp_path / "last.pth").read_bytes()
    run(Toy(), loaders, tmp_path, resume=True)
    assert (tmp_path / "last.pth").read_bytes() == before


def test_a_run_that_is_there_is_not_overwritten(loaders, tmp_path):
    run(Toy(), loaders, tmp_path)
    with pytest.raises(UserError, match="--resume goes on"):
        run(Toy(), loaders, tmp_path)


def test_resuming_with_other_settings_names_them(loaders, tmp_path):
    run(Toy(), loaders, tmp_path)
    with pytest.raises(UserError, match=r"epochs was 3, now 5; img_size was 8, now 16"):
        run(Toy(), loaders, tmp_path, resume=True, epochs=5, img_size=16)
    run(Toy(), loaders, tmp_path, resume=True, device="auto")  # where it runs is not what it is


def test_a_loss_that_is_not_finite_stops_and_names_the_images(loaders, tmp_path):
    phase = Toy()
    phase.fail_at, phase.failure = 6, None
    with pytest.raises(UserError, match=r"loss is nan at step 1 of epoch 2, on \d, \d") as caught:
        run(phase, loaders, tmp_path)
    assert "--base_lr" in str(caught.value)
    last = load_checkpoint(tmp_path / "last.pth", "toy")
    assert last["epoch"] == 1 and torch.isfinite(last["model"]["weight"]).all()


def test_the_log_is_json_even_where_a_figure_is_not_a_number(loaders, tmp_path):
    phase = Toy()
    phase.validation_losses = [float("nan")] * 3
    run(phase, loaders, tmp_path)
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["val"]["loss"] is None


def test_learning_rate_of_the_paper():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer, schedule = sgd_with_poly_decay([parameter], base_lr=0.01, total_steps=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.zeros(1)
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0.01, 0.01, 0.01 * 0.9**0.9])
    assert rates[9] == pytest.approx(0.01 * 0.2**0.9)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
