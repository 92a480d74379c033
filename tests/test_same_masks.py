"""The masks that predict.py writes are, pixel by pixel, those that evaluation.py judges, whatever the way to them."""

from __future__ import annotations

import csv
import sys

import cv2
import numpy as np
import pytest
import torch

import evaluation
import models
import predict
from datasets.decode import read_mask
from models import baselines
from utils.evaluation.evaluate import MaskLogits
from utils.evaluation.target_metrics import count_targets
from utils.networks.checkpoints import save_checkpoint

# Finds what is brighter than its image, as far as a lopsided blur can see: its views and tiles differ, and its logits
# are as steep as a trained network's.
SPOTS = """
import torch
from torch import nn

class Spots(nn.Module):
    def __init__(self):
        super().__init__()
        self.blur = nn.Conv2d(3, 1, 5, padding=2)
        self.steep = nn.Parameter(torch.tensor(20.0))

    def forward(self, image):
        seen = self.blur(image.expand(-1, 3, -1, -1))
        return self.steep * (seen - seen.mean((2, 3), keepdim=True) - 0.5)

def build():
    return Spots()
"""
SIZES = [(48, 80), (96, 72), (33, 65), (64, 64), (50, 50), (20, 31)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six images of as many sizes with spots, dim ones among them; the last two in 12 of 16 bits."""
    base = tmp_path_factory.mktemp("spots")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (base / folder).mkdir()
    for i, (height, width) in enumerate(SIZES):
        image, mask = rng.normal(60, 12, (height, width)), np.zeros((height, width), np.uint8)
        for k in range(5):
            spot = np.zeros_like(mask)
            where = (int(rng.integers(4, width - 4)), int(rng.integers(4, height - 4)))
            cv2.circle(spot, where, 2 + k % 3, 1, -1)
            image += spot * (15 + 30 * k)
            mask |= spot
        image = np.clip(image, 0, 255)
        stored = (image * 4095 / 255).astype(np.uint16) if i > 3 else image.astype(np.uint8)
        cv2.imwrite(str(base / "images" / f"{i}.png"), stored)
        cv2.imwrite(str(base / "masks" / f"{i}.png"), mask * 255)
    (base / "val.txt").write_text("\n".join(map(str, range(len(SIZES)))))
    return base


@pytest.fixture
def spots(data, tmp_path, monkeypatch):
    """Writes a checkpoint of the network above; takes what it records of its training."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "spots.py").write_text(SPOTS)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path / "files")])
    monkeypatch.delitem(sys.modules, "models.baselines.spots", raising=False)

    def checkpoint(mask_shift):
        network = models.build("spots")
        kernel = torch.linspace(0, 1, 25).view(5, 5)
        with torch.no_grad():
            network.blur.weight.copy_((kernel / kernel.sum() / 3).expand(1, 3, 5, 5))
        settings = {"variant": "spots", "img_size": 48, "normalization": "imagenet", "amp": "off", "white_level": 4095}
        settings |= {"base_dir": str(data), "val_file_dir": "val.txt", "mask_interpolation": "exact"}
        content = {"phase": "seg", "model": network.state_dict(), "settings": settings, "mask_shift": mask_shift}
        save_checkpoint(tmp_path / "run" / "seg" / "best.pth", content)
        return tmp_path / "run" / "seg" / "best.pth"

    return checkpoint


WAYS = {
    "resized": (["--resize", "back"], []),
    "at its size": (["--resize", "keep"], ["--resize", "keep"]),
    "eight views": (["--resize", "back", "--tta"], ["--tta"]),
    "tiles": (["--resize", "keep", "--tile", "32"], ["--tile", "32"]),
    "views of tiles": (
        ["--resize", "keep", "--tile", "32", "--overlap", "16", "--tta"],
        ["--tile", "32", "--overlap", "16", "--tta"],
    ),
}


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.25)])
@pytest.mark.parametrize("way", WAYS)
def test_the_masks_written_are_those_judged(spots, data, tmp_path, monkeypatch, way, shift):
    weights, judged = spots(shift), {}
    logits_of = MaskLogits.__call__

    def spied(self, batch):
        logits = logits_of(self, batch)
        judged.update({name: one[0].numpy() > 0 for name, one in zip(batch["name"], logits, strict=True)})
        return logits

    monkeypatch.setattr(MaskLogits, "__call__", spied)
    of_evaluation, of_predict = WAYS[way]
    args = evaluation.settings(["--weights", str(weights), "--workers", "0", *of_evaluation])
    summary = evaluation.main(args)
    # Batch size 1, as in evaluation: larger batches round otherwise.
    words = ["--weights", str(weights), "--batch_size", "1", "--output", str(tmp_path / "masks"), *of_predict]
    predict.main(predict.settings([str(data / "images"), *words]))
    with (evaluation.results_folder(args) / "per_image.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    totals = dict.fromkeys(("TP", "FP", "FN", "found", "targets"), 0)
    for name, prediction in judged.items():
        written = cv2.imread(str(tmp_path / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, prediction * np.uint8(255))
        found, target = written > 0, read_mask([data / "masks" / f"{name}.png"]) > 0
        counts = {"TP": found & target, "FP": found & ~target, "FN": ~found & target, "TN": ~found & ~target}
        counts = {key: int(pixels.sum()) for key, pixels in counts.items()} | count_targets(found, target)
        assert {key: int(rows[name][key]) for key in counts} == counts
        totals = {key: total + counts[key] for key, total in totals.items()}
    assert len(judged) == len(SIZES)
    assert summary["infrared"]["Pd"] == totals["found"] / totals["targets"] > 0.2
    assert min(totals["TP"], totals["FP"], totals["FN"]) > 20, "right and wrong pixels, or this has shown nothing"


def test_the_ways_differ(spots, tmp_path):
    """Else one of them would show what another has shown."""
    weights = spots((0.5, 0.25))
    folders = {}
    for of_evaluation, _ in WAYS.values():
        args = evaluation.settings(["--weights", str(weights), "--workers", "0", *of_evaluation])
        summary = evaluation.main(args)
        folders[evaluation.results_folder(args)] = summary["pooled_iou"], summary["protocol"]["size"]
    assert len(folders) == len(set(folders.values())) == len(WAYS)
    assert len({iou for iou, _ in folders.values()}) == len({size for _, size in folders.values()}) == len(WAYS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tile", "32"], "--resize keep"),
        (["--resize", "keep", "--tile", "20"], "multiple of 8"),
        (["--overlap", "8"], "overlap requires tile"),
        (["--tta", "--code", "swap"], "accepts neither"),
    ],
)
def test_flags_that_do_not_fit_are_refused(spots, flags, message):
    args = evaluation.settings(["--weights", str(spots((0.0, 0.0))), *flags])
    with pytest.raises(evaluation.UserError, match=message):
        evaluation.main(args)
