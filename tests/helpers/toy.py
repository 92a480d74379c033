"""A phase of one convolution, with data of a few pixels: the engine's mechanics in place of networks and minutes.

A separate module, so that a separate process can run it, too.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from datasets.folder import SegmentationFolder, make_loader
from datasets.load import load_lists
from datasets.transforms import Transform
from utils.networks.checkpoints import load_checkpoint
from utils.training.engine import fit


class Toy:
    """Predicts the mask from the image with one convolution."""

    name = "toy"
    watch, higher_is_better = "loss", False
    watch_from = 0

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Conv2d(3, 1, 3, padding=1)
        self.steps = 0
        self.at_step = {}  # number of the step -> what happens in it
        self.validation_losses = None
        self.predicted = None

    def step(self, model, batch):
        if torch.is_grad_enabled():
            self.steps += 1
            self.at_step.get(self.steps, lambda batch: None)(batch)
        losses = (model(batch["image"]) - batch["mask"]).square().mean((1, 2, 3))
        if self.validation_losses is not None and not torch.is_grad_enabled():
            losses = torch.full_like(losses, self.validation_losses[self.steps // 4 - 1])
        figures = {} if self.predicted is None else {"predicted": torch.full_like(losses, self.predicted)}
        return losses.mean(), {"loss": losses, **figures}

    def draw(self, model, batch):
        return list(zip(model(batch["image"]), batch["mask"], strict=True))


def make_data(base):
    """Nine cases, seven to train on."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (base / folder).mkdir(parents=True)
    for i in range(9):
        cv2.imwrite(str(base / "images" / f"{i}.png"), rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        cv2.imwrite(str(base / "masks" / f"{i}.png"), np.eye(8, dtype=np.uint8) * 255)
    (base / "train.txt").write_text("0\n1\n2\n3\n4\n5\n6\n")
    (base / "val.txt").write_text("7\n8\n")
    return base


def make_loaders(base, workers=0):
    """Training (4 steps an epoch) and validation."""
    cases = load_lists(base, {"train": "train.txt", "val": "val.txt"})
    train = SegmentationFolder(cases["train"], Transform(8, augment=True))
    val = SegmentationFolder(cases["val"], Transform(8))
    return make_loader(train, 2, workers, shuffle_seed=1), make_loader(val, 2, workers)


def settings(**changes):
    values = {"epochs": 3, "base_lr": 0.05, "device": "cpu", "img_size": 8, "Dataset": "toy"}
    values |= {"base_dir": None, "train_file_dir": "train.txt", "val_file_dir": "val.txt"}
    values |= {
        "resume": None,
        "save_every": 0,
        "init_from": None,
        "sync_bn": False,
        "compile": False,
        "cuda_graphs": False,
        "channels_last": True,
        "deterministic": False,
        "batch_size": 2,
        "amp": "off",
        "seed": 1,
        "accumulate": 1,
        "variant": "srs_tiny",
        "normalization": "imagenet",
        "encoder_bn": "frozen",
        "mask_interpolation": "exact",
        "augment_order": "before_resize",
    }
    return argparse.Namespace(**{**values, **changes})


def run(phase, base, folder, workers=0, **changes):
    """A whole run; returns its last checkpoint."""
    fit(phase, *make_loaders(base, workers), settings(base_dir=str(base), **changes), folder, torch.device("cpu"))
    return load_checkpoint(folder / "last.pth", phase.name)


def run_in_process(base: Path, folder: Path, largest_file: int | None, epochs: int) -> None:
    """What a child process does: a run that resumes if there is one; the system cuts every file at `largest_file`."""
    torch.set_num_threads(1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    run(Toy(), base, folder, epochs=epochs, resume="auto")
