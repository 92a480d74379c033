"""Images of several sizes: trained on crops, evaluated at their own size and at another."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch

import evaluation
import train_recon
import train_seg
from datasets.prepare.sample import make_sample
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.evaluation.evaluate import MaskLogits
from utils.networks.checkpoints import load_checkpoint
from utils.networks.load_weights import load_trained
from utils.settings.data_loaders import checked_cases, evaluation_loader, training_loaders

SIZES = [(40, 56), (33, 47), (56, 56), (24, 51)]  # height, width
OFF = Precision("off", torch.device("cpu"))
FLAGS = ["--batch_size", "4", "--epochs", "1", "--workers", "0", "--variant", "srs_tiny"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    base = tmp_path_factory.mktemp("data") / "set"
    make_sample(base, look="infrared", count=12, size=56)
    for i, path in enumerate(sorted((base / "images").iterdir())):
        height, width = SIZES[i % len(SIZES)]
        for file in (path, base / "masks" / path.name):
            cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[:height, :width])
    return base


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Both phases on crops; the experiment's folder."""
    out = tmp_path_factory.mktemp("out") / "experiment"
    for script in (train_recon, train_seg):
        flags = ["--base_dir", str(data), "--output_dir", str(out), *FLAGS, "--crop", "32"]
        script.main(script.parser().settings(flags))
    return out


def evaluated(out, *flags):
    args = evaluation.settings(["--weights", str(out / "seg" / "best.pth"), "--workers", "0", *flags])
    return args, evaluation.main(args)


def rows(folder):
    return {row["name"]: row for row in csv.DictReader((folder / "per_image.csv").open(encoding="utf-8"))}


def test_training_takes_crops_and_validates_on_whole_images(data):
    settings = train_seg.parser().settings(["--base_dir", str(data), *FLAGS, "--crop", "32"])
    for need_masks in (False, True):
        train, val = training_loaders(settings, need_masks, val_batch_size=4)
        assert {tuple(batch["image"].shape[1:]) for batch in train} == {(3, 32, 32)}
        shapes = [tuple(batch["image"].shape) for batch in val]
        assert len(shapes) == len(val.dataset) and {shape[2:] for shape in shapes} <= set(SIZES)


def test_a_network_trained_on_crops_is_evaluated_at_each_images_own_size(trained, data, capsys):
    args, summary = evaluated(trained)
    assert args.resize == "keep" and "each image's own size" in capsys.readouterr().out
    best = load_checkpoint(trained / "seg" / "best.pth", "seg")
    for name, value in summary["mean_over_images"].items():
        assert value == pytest.approx(best["figures"][name], rel=1e-4, abs=1e-6), name
    found = rows(trained / "evaluation" / "best-val-keep")
    for name, row in found.items():
        mask = cv2.imread(str(data / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert sum(int(row[count]) for count in ("TP", "FP", "FN", "TN")) == mask.size
        assert int(row["target_pixels"]) == (mask > 0).sum()
    assert len(found) == summary["images"]


def test_a_prediction_resized_back_is_compared_with_the_mask_as_it_is(trained, data):
    args, summary = evaluated(trained, "--resize", "back", "--img_size", "24")
    assert summary["compared_at"] == "the original size of each image; predicted at 24x24 pixels"
    (model, _), found = evaluation.load_model(args), rows(trained / "evaluation" / "best-val-back-24px")
    cases = checked_cases(args, {"validation": "val.txt"})["validation"]
    for batch in evaluation_loader(args, cases, 1, "back"):
        (name,) = batch["name"]
        mask = cv2.imread(str(data / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 0
        with torch.no_grad():
            expected = cv2.resize(model(batch["image"])[0, 0].numpy(), mask.shape[::-1])
            np.testing.assert_allclose(MaskLogits(model, OFF)(batch)[0, 0].numpy(), expected, atol=1e-5)
        assert sum(int(found[name][count]) for count in ("TP", "FP", "FN", "TN")) == mask.size


def test_a_learned_shift_is_undone_where_masks_lie_on_their_images(trained, tmp_path, data, capsys):
    content = torch.load(trained / "seg" / "best.pth", weights_only=True)
    content["settings"] |= {"mask_interpolation": "nearest", "crop": None, "img_size": 24}
    (tmp_path / "seg").mkdir()
    torch.save({**content, "mask_shift": (0.5, 0.25)}, tmp_path / "seg" / "best.pth")
    expected = {"img_size": (0, 0), "keep": (0.5, 0.25), "back": (0.5, 0.25)}
    for resize, shift in expected.items():
        args = evaluation.settings(["--weights", str(tmp_path / "seg" / "best.pth"), "--resize", resize])
        model, found = evaluation.load_model(args)
        assert found == shift
        text = evaluation.compared_at(args, found)
        assert ("shifted by 0.50 pixels up and 0.25 left" in text) == any(shift)
    batch = next(iter(evaluation_loader(args, checked_cases(args, {"validation": "val.txt"})["validation"], 1, "back")))
    with torch.no_grad():
        moved, unmoved = MaskLogits(model, OFF, (0.5, 0.25))(batch), MaskLogits(model, OFF)(batch)
    size = tuple(batch["mask"].shape[-2:])
    down, right = (round(8 * side / 24 * part) for side, part in zip(size, (0.5, 0.25), strict=True))
    fine = cv2.resize(unmoved[0, 0].numpy(), None, fx=8, fy=8)  # moved up and left there, then back
    back = cv2.resize(np.roll(fine, (-down, -right), (0, 1)), size[::-1], interpolation=cv2.INTER_AREA)
    inside = (slice(2, -4), slice(2, -4))
    spread = np.ptp(unmoved.numpy())
    assert np.abs(back[inside] - moved[0, 0].numpy()[inside]).max() < 0.15 * spread
    args = evaluation.settings(["--weights", str(tmp_path / "seg" / "best.pth"), "--mask_interpolation", "exact"])
    assert evaluation.load_model(args)[1] == (0.5, 0.25)


@pytest.mark.parametrize("shift", [(0.5,), "half", (float("nan"), 0.0), (3.0, 0.0), torch.zeros(2)])
def test_a_recorded_shift_that_is_none_is_refused(trained, tmp_path, shift):
    content = torch.load(trained / "seg" / "best.pth", weights_only=True)
    torch.save({**content, "mask_shift": shift}, tmp_path / "best.pth")
    with pytest.raises(UserError, match="mask_shift must be two numbers"):
        load_trained(tmp_path / "best.pth")


def test_the_files_tell_what_the_summary_tells(trained):
    _, summary = evaluated(trained, "--resize", "img_size", "--img_size", "32")
    folder = trained / "evaluation" / "best-val-32px"
    assert json.loads((folder / "summary.json").read_text())["infrared"] == summary["infrared"]
    found = list(rows(folder).values())
    of_field = summary["infrared"]
    for name in ("targets", "found", "false_alarm_pixels"):
        assert of_field[name] == sum(int(row[name]) for row in found)
    assert of_field["targets"] > 0 and of_field["Pd"] == of_field["found"] / of_field["targets"]
    assert of_field["Fa_1e-6"] == pytest.approx(1e6 * of_field["false_alarm_pixels"] / (len(found) * 32 * 32))
    assert of_field["nIoU"] == pytest.approx(np.mean([float(row["iou"]) for row in found]), abs=1e-5)
    distances = np.array([float(row["hd95"]) for row in found])
    assert summary["medical"]["HD95_undefined"] == np.isnan(distances).sum()
    swept = list(csv.DictReader((folder / "sweep.csv").open(encoding="utf-8")))
    (half,) = [row for row in swept if row["threshold"] == "0.5"]
    assert float(half["iou"]) == pytest.approx(summary["mean_over_images"]["iou"], abs=1e-9)
    assert float(half["f1"]) == pytest.approx(summary["mean_over_images"]["F1"], abs=1e-9)
