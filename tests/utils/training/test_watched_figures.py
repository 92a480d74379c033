"""What chooses best.pth, with images without a target in the list."""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from toy import make_data

import train_seg
from datasets.checks import check_cases
from datasets.folder import SegmentationFolder
from datasets.kept import Kept
from datasets.load import load_lists
from datasets.transforms import Transform
from utils.evaluation.pixel_metrics import confusion, figures, pooled_iou
from utils.settings.arguments import WATCHED
from utils.training.engine import _better
from utils.training.run_state import Means
from utils.training.watched_figures import derive, empty_note


def target(pixels):
    mask = torch.zeros(1, 1, 8, 8)
    mask.view(-1)[:pixels] = 1
    return mask


EMPTY, SMALL, LARGE = target(0), target(4), target(32)
NOTHING, HALF, ALL = target(0) - 0.5, target(16) - 0.5, target(64) - 0.5
LIST = [EMPTY, EMPTY, SMALL, LARGE]


def validated(logits, masks, watch="iou"):
    """The validation figures of a phase whose network answers so, one image after the other."""
    phase = train_seg.Segmentation(nn.Identity(), watch=watch)
    means = Means()
    for image, mask in zip(logits, masks, strict=True):
        means.add(phase.step(phase.model, {"image": image, "mask": mask})[1])
    return phase, phase.derive(means.read())


def test_the_figures_are_those_of_an_evaluation():
    logits = [NOTHING, HALF, NOTHING, HALF]
    _, found = validated(logits, LIST)
    counts = confusion(torch.cat(logits), torch.cat(LIST))
    ious = figures(counts)["iou"]
    assert found["iou"] == pytest.approx(ious.mean().item())
    assert found["pooled_iou"] == pytest.approx(pooled_iou(counts), abs=1e-6)
    assert found["pooled_iou"] == pytest.approx(16 / 52, abs=1e-6)
    assert found["iou_with_target"] == pytest.approx(ious[2:].mean().item())
    assert found["iou_with_target"] == pytest.approx(0.25, abs=1e-5)
    assert set(WATCHED) <= found.keys() and not {"TP", "union", "with_target"} & found.keys()


@pytest.mark.parametrize("watch", WATCHED)
def test_half_of_the_list_is_empty_and_predicting_nothing_is_best_only_by_the_mean_iou(watch):
    phase, nothing = validated([NOTHING] * 4, LIST, watch)
    assert nothing["iou"] == pytest.approx(0.5, abs=1e-5) and nothing["pooled_iou"] == nothing["F1"] == 0
    _, useful = validated([NOTHING, HALF, NOTHING, HALF], LIST, watch)
    assert useful["iou"] < nothing["iou"]
    better = _better(phase, useful, {"epoch": 1, watch: nothing[watch]})
    assert better == (watch != "iou")


def test_a_list_without_any_target_and_training_steps():
    _, found = validated([NOTHING, NOTHING], [EMPTY, EMPTY])
    assert "iou_with_target" not in found and found["pooled_iou"] == 1
    assert derive({"loss": 1.0}) == {"loss": 1.0}
    phase = train_seg.Segmentation(nn.Identity())
    assert "union" not in phase.step(phase.model, {"image": ALL.clone().requires_grad_(), "mask": LARGE})[1]


def test_what_is_said():
    assert empty_note(0, 24, "iou") is None
    said = empty_note(12, 24, "iou")
    assert "12 of 24 validation images (50.0 %)" in said and "mean IoU of 0.500" in said
    assert "--watch pooled_iou" in said
    assert "--watch" not in empty_note(12, 24, "pooled_iou")


@pytest.mark.parametrize("budget", [0, 3000, 10**9])
def test_empty_masks_are_counted_whether_decoded_before_or_not(tmp_path, budget):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.zeros((16, 16, 3), np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), np.full((16, 16), 255 * (i % 3 > 0), np.uint8))
    (tmp_path / "val.txt").write_text("0\n1\n2\n3\n4\n5\n")
    folder = SegmentationFolder(load_lists(tmp_path, {"val": "val.txt"})["val"], Transform(16))
    folder.keep_decoded(budget)
    assert folder.without_target() == 2


def test_masks_that_vanish_in_resizing_count_as_empty(tmp_path):
    make_data(tmp_path)
    mask = np.zeros((8, 8), np.uint8)
    mask[1, 1] = 255
    for i in range(2):
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), mask)
    cases = load_lists(tmp_path, {"train": "train.txt"})["train"]
    for interpolation, empty in (("exact", 0), ("nearest", 2)):
        folder = SegmentationFolder(cases, Transform(4, mask_interpolation=interpolation))
        folder.keep_decoded(10**9, kept_of(cases))
        assert folder.without_target() == empty


def kept_of(cases):
    kept = Kept(10**9)
    check_cases(cases, [], kept=kept)
    return kept


def test_the_flag():
    settings = train_seg.parser().settings(["--base_dir", "x"])
    assert isinstance(settings, argparse.Namespace) and settings.watch == "iou"
