"""The ledger of published figures: its page is what its data says, and its claims follow from the released logs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import train_seg
from utils.evaluation.published import (
    highest_f1,
    ledger,
    page,
    released_log,
    steps_an_epoch,
)
from utils.settings.config import CONFIGS
from utils.settings.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[3]
SRS = {entry["dataset"]: entry for entry in ledger()["srs"]}


def test_the_page_is_written_from_the_data():
    written = (ROOT / "docs" / "explanation" / "published.md").read_text(encoding="utf-8")
    assert written == page() + "\n", "python -m utils.evaluation.published > docs/explanation/published.md"


@pytest.mark.parametrize(
    ("name", "epochs", "best", "last"),
    [
        ("BUS", 300, (113, 88.29, 93.44), (299, 87.79, 93.30)),
        ("KBT2019", 469, (360, 86.17, 91.48), (468, 85.41, 90.97)),
    ],
)
def test_best_and_last_epoch_of_the_released_logs(name, epochs, best, last):
    log = released_log(name)
    assert len(log) == epochs and log.columns["epoch"] == list(range(epochs))
    for epoch, iou, f1 in (best, last):
        row = log.at(epoch)
        assert (100 * row["val_iou"], 100 * row["val_F1"]) == pytest.approx((iou, f1))
    assert log.best() == best[0] and released_log("BUSI") is None


def logged_rate(epoch, epochs, steps):
    """The learning rate after an epoch (from 0), set after its last step: 0.01 (1 - i / total)^0.9, steps from 0."""
    return 0.01 * (1 - ((epoch + 1) * steps - 1) / (epochs * steps)) ** 0.9


@pytest.mark.parametrize(("name", "wrong"), [("BUS", 8), ("KBT2019", 16)])
def test_the_learning_rates_tell_the_batch_size(name, wrong):
    """To the last logged digit with the right number of steps an epoch, and not with the other one."""
    entry = SRS[name]
    with (ROOT / "splits" / entry["log"]).open(newline="") as file:
        logged = [row["lr"] for row in csv.DictReader(file)]

    def rates(batch_size):
        steps = steps_an_epoch(entry["training_images"], batch_size)
        return [f"{logged_rate(epoch, entry['epochs'], steps):.6f}" for epoch in range(len(logged))]

    assert rates(entry["batch_size"]) == logged != rates(wrong)
    assert train_seg.parser().settings(["--Dataset", name]).batch_size == entry["batch_size"]


def test_which_published_f1_fits_its_iou():
    """A mean F1 is at most the F1 of the mean IoU; no logged epoch comes as near to that as KBT2019's 92.62."""
    for name, fits in (("BUS", True), ("KBT2019", False)):
        log = released_log(name)
        pairs = zip(log.columns["val_iou"], log.columns["val_F1"], strict=True)
        gaps = [highest_f1(100 * iou) - 100 * f1 for iou, f1 in pairs if iou > 0]
        gap = highest_f1(SRS[name]["iou"]) - SRS[name]["F1"]
        assert (gap > min(gaps)) == fits
    assert min(gaps) == pytest.approx(0.87, abs=0.005) and gap == pytest.approx(0.05, abs=0.005)
    assert "the published F1 does not fit" in page() and "the published F1 fits" in page()


def test_the_configurations_quote_the_ledger():
    for name, entry in SRS.items():
        values = read_yaml(CONFIGS / f"{name}.yaml")
        assert values["published"] == {"iou": entry["iou"], "F1": entry["F1"]}
        assert values["train_seg"]["epochs"] == entry["epochs"]
