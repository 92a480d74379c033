"""The plan of the whole protocol, and which results of evaluations count as done."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from utils.common.errors import UserError
from utils.evaluation.pixel_metrics import PAPER_FIGURES
from utils.reproduction.protocol_steps import EvaluationStep, TrainingStep, refuse_mixed


def plan(division, phase="seg", **settings):
    values = {"batch_size": 8, "epochs": 3, "workers": division, "train_file_dir": f"train{division}.txt", **settings}
    return [TrainingStep("phase 2", "train_seg.py", [], argparse.Namespace(**values), phase, Path("x"))]


def test_divisions_of_a_changed_configuration_are_not_mixed():
    refuse_mixed({1: plan(1), 2: plan(2), 3: plan(3)})
    refuse_mixed({1: plan(1) + plan(1, "recon", batch_size=16)})
    with pytest.raises(UserError, match=r"divisions 1 and 3 \(batch_size 8 and 16\).*Pass the flag"):
        refuse_mixed({1: plan(1), 2: plan(2), 3: plan(3, batch_size=16)})


TABLE = "name,iou,F1,TP,FP,FN,TN,target_pixels\na,0.5,0.6,1,1,0,2,1\nb,1,1,1,0,0,3,1\n"
SUMMARY = {
    "images": 2,
    "mean_over_images": dict.fromkeys(PAPER_FIGURES, 0.75),
    "pooled_iou": 0.7,
    "benchmark": {"iou": 0.7, "F1": 0.8, "batch": 8},
    "infrared": {"nIoU": 0.75, "Pd": None, "Fa_1e-6": 3},
    "medical": {"HD95": None},
    "code": {"given": "swap"},
    "settings": {"base_dir": "elsewhere", "val_file_dir": "val.txt", "img_size": 16, "mask_suffix": None},
    "provenance": {"lists": {}, "weights": {}},
    "protocol": {"threshold": 0.5},
}


def evaluation(folder, code=None):
    """A step without a list file and hashes, whose settings are those of SUMMARY."""
    settings = argparse.Namespace(base_dir=str(folder), val_file_dir="val.txt", img_size=16, mask_suffix=None)
    (folder / "best.pth").touch()
    step = ("best epoch on val.txt", "evaluation.py", [], lambda: settings, "best", "val", folder / "best.pth")
    return EvaluationStep(*step, lambda _: folder, code)


def test_whole_results_of_the_same_settings_count_as_done(tmp_path):
    step = evaluation(tmp_path, "swap")
    assert step.summary() is None
    (tmp_path / "per_image.csv").write_text(TABLE)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    assert step.summary() == SUMMARY and step.progress().done
    (tmp_path / "summary.json").write_text(json.dumps({name: of for name, of in SUMMARY.items() if name != "code"}))
    assert evaluation(tmp_path).summary() and step.summary() is None


@pytest.mark.parametrize(
    "summary",
    [
        [],
        3,
        *({name: of for name, of in SUMMARY.items() if name != left_out} for left_out in SUMMARY if left_out != "code"),
        *({**SUMMARY, name: None} for name in SUMMARY if name not in ("code", "pooled_iou")),
        {**SUMMARY, "benchmark": {"iou": 0.7}},
        {**SUMMARY, "mean_over_images": {**SUMMARY["mean_over_images"], "iou": "0.75"}},
        {**SUMMARY, "provenance": {"lists": None, "weights": 3}},
        {**SUMMARY, "settings": {**SUMMARY["settings"], "img_size": 32}},
        {**SUMMARY, "files": {"per_image.csv": "0" * 64}},
    ],
)
def test_an_incomplete_or_outdated_summary_is_to_be_made_again(tmp_path, summary):
    (tmp_path / "per_image.csv").write_text(TABLE)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert evaluation(tmp_path).summary() is None and not evaluation(tmp_path).progress().done


@pytest.mark.parametrize(
    "table", ["", "name,iou\n", TABLE[:-20], TABLE.replace("b,1,1,1,0,0,3,1\n", ""), TABLE.replace("FN", "f")]
)
def test_a_damaged_table_of_images_is_to_be_made_again(tmp_path, table):
    (tmp_path / "per_image.csv").write_text(table)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    assert evaluation(tmp_path).summary() is None
