from __future__ import annotations

import csv
import json

import pytest

from utils.reproduction import division_table
from utils.reproduction.division_table import FIGURES, Result


def summary(iou, pd, fa):
    shares = dict.fromkeys(("F1", "SE", "PC", "SP", "ACC", "dice"), 0.5)
    infrared = {"nIoU": 0.25, "Pd": pd, "Fa_1e-6": fa}
    return {"images": 7, "mean_over_images": {"iou": iou, **shares}, "pooled_iou": 0.75, "infrared": infrared}


def results(*summaries):
    return [Result.read(i + 1, "val", "best", 10 * i, content) for i, content in enumerate(summaries)]


def test_mean_and_sample_standard_deviation_in_their_units():
    three = results(summary(0.70, 0.9, 10), summary(0.74, 0.8, 20), summary(0.78, 1.0, 60))
    spread = division_table.spread(three)["val", "best"]
    assert spread["iou"] == pytest.approx((74, 4))
    assert spread["Pd"] == pytest.approx((90, 10))
    assert spread["Fa"] == pytest.approx((30, 700**0.5))
    assert spread["pooled_iou"] == pytest.approx((75, 0)) and spread["nIoU"] == pytest.approx((25, 0))
    page = division_table.markdown("title", three, {"iou": 88.29}, ["a note"])
    assert "74.00 ± 4.00" in page and "30.00 ± 26.46" in page and "88.29" in page and "- a note" in page


def test_an_undefined_figure_stays_empty(tmp_path):
    two = results(summary(0.7, None, 0), summary(0.9, 1.0, 0))
    assert division_table.spread(two)["val", "best"]["Pd"] == (None, None)
    division_table.write(tmp_path, division_table.markdown("title", two, {}, []), {}, two)
    rows = list(csv.DictReader((tmp_path / "reproduce.csv").open()))
    assert [row["Pd"] for row in rows] == ["", "100", "", ""] and [row["iou"] for row in rows[:3]] == ["70", "90", "80"]
    assert json.loads((tmp_path / "reproduce.json").read_text())["over_divisions"][0]["mean"]["Pd"] is None


def test_one_division_has_no_deviation():
    (values,) = division_table.spread(results(summary(0.7, 1.0, 0))).values()
    assert values["iou"] == (pytest.approx(70), None) and set(values) == set(FIGURES)
