"""The plots of an experiment; skipped without matplotlib."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from synthetic_experiment import write_experiment

from utils.reproduction import experiment_plots
from utils.reproduction.experiment_plots import PLOTS, band, draw
from utils.reproduction.experiment_summary import summarise
from utils.reproduction.experiment_table import tabulate


@pytest.mark.slow
@pytest.mark.long
def test_plots_are_drawn_and_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (requirements-plots.txt)")
    lines = write_experiment(tmp_path, "trial", {"none": 0, "dpconv": 3}, divisions=2)
    page = tabulate("trial", lines, tmp_path)
    files = sorted(tmp_path.glob("trial-*.p*"))
    assert [file.name for file in files] == sorted(f"trial-{plot}.{kind}" for plot in PLOTS for kind in ("png", "pdf"))
    for plot in PLOTS:
        image = cv2.imread(str(tmp_path / f"trial-{plot}.png"))
        blue = np.abs(image.astype(int) - (178, 114, 0)).sum(2) < 12  # dpconv's, in OpenCV's order
        assert min(image.shape[:2]) > 200 and blue.sum() > 50, plot
        assert (tmp_path / f"trial-{plot}.pdf").read_bytes().startswith(b"%PDF")
        assert f"(trial-{plot}.png)" in page
    before = [file.read_bytes() for file in files]
    draw(summarise("trial", lines, tmp_path), tmp_path)
    assert [file.read_bytes() for file in files] == before


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (requirements-plots.txt)")
    (line,) = write_experiment(tmp_path, "one", {"none": 0}, divisions=1, seeds=(41,), images=8)
    line["network"]["macs"] = None
    summary = summarise("one", [line], tmp_path)
    assert [path.name for path in draw(summary, tmp_path)] == ["one-curves.png", "one-curves.pdf"]
    assert draw(summarise("one", [], tmp_path), tmp_path) == []


def test_the_band_is_of_seeds_within_divisions():
    curves = {(1, 41): [0.1], (1, 42): [0.3], (2, 41): [0.7], (2, 42): [0.9]}
    curves = {run: np.array(curve) for run, curve in curves.items()}
    assert np.concatenate(band(curves)) == pytest.approx([0.5, 0.4, 0.6])
    one_seed = {run: curve for run, curve in curves.items() if run[1] == 41}
    assert np.concatenate(band(one_seed)) == pytest.approx([0.4, 0.1, 0.7])


def test_arms_differ_in_more_than_colour():
    looks = {(experiment_plots.MARKERS[i % 10], experiment_plots.DASHES[i % 4]) for i in range(10)}
    assert len(looks) == len(set(experiment_plots.COLOURS)) == len(experiment_plots.MARKERS) == 10
