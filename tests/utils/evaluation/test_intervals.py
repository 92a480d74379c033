"""The intervals of means: against SciPy's bootstrap, by hand, and where there is nothing to draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from utils.evaluation.benchmark_pooling import benchmark
from utils.evaluation.intervals import RESAMPLES, bootstrap, intervals, words
from utils.evaluation.pixel_metrics import figures, pooled_iou


def counts_of(n, seed=0, pixels=1000):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 300, n)
    tp = (target * rng.random(n)).astype(int)
    fp = rng.integers(0, 200, n)
    counts = {"TP": tp, "FP": fp, "FN": target - tp, "TN": pixels - target - fp}
    return {name: torch.from_numpy(values.astype(np.int64)) for name, values in counts.items()}


def all_intervals(counts, hd95=None):
    n = len(counts["TP"])
    targets = {"targets": torch.ones(n), "found": (counts["TP"] > 50).long(), "false_alarm_pixels": counts["FP"]}
    return intervals(figures(counts), counts, targets, {"hd95": torch.ones(n) if hd95 is None else hd95})


def test_the_interval_is_the_percentile_bootstrap_of_scipy():
    values = np.random.default_rng(1).beta(5, 2, 80)
    (low, high), gaps = bootstrap({"x": (values, np.ones(80))})["x"], []
    for seed in range(5):
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
        gaps.append((abs(found.low - low), abs(found.high - high)))
    assert np.max(gaps) < 0.05 * (high - low)  # two draws of 9999 differ by some 1 % of the width
    margin = 1.96 * values.std() / np.sqrt(80)
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.1 * margin)


def test_the_interval_covers_the_mean_in_95_of_100_samples():
    rng = np.random.default_rng(2)
    hits = []
    for _ in range(400):
        values = rng.beta(5, 2, 60)
        low, high = bootstrap({"x": (values, np.ones(60))}, resamples=499)["x"]
        hits.append(low <= 5 / 7 <= high)
    assert 0.91 < np.mean(hits) < 0.98  # a percentile bootstrap of 60 values falls a little short of 0.95


def test_every_mean_has_one_around_it_and_it_is_the_same_each_time():
    counts = counts_of(60)
    found = all_intervals(counts)
    means = {name: values.mean().item() for name, values in figures(counts).items()}
    assert found["mean_over_images"].keys() == means.keys()
    for name, mean in means.items():
        low, high = found["mean_over_images"][name]
        assert low < mean < high
    for value, (low, high) in (
        (pooled_iou(counts), found["pooled_iou"]),
        (pooled_iou(counts), found["infrared"]["mIoU"]),
        ((counts["TP"] > 50).double().mean().item(), found["infrared"]["Pd"]),
        (1e6 * counts["FP"].sum().item() / 60_000, found["infrared"]["Fa_1e-6"]),
        (means["dice"], found["medical"]["Dice"]),
        (benchmark(counts)["iou"], found["benchmark"]["iou"]),
        (benchmark(counts)["F1"], found["benchmark"]["F1"]),
    ):
        assert low < value < high
    assert all_intervals(counts) == found
    assert (found["level"], found["resamples"]) == (0.95, 9999) and "noise of training" in found["method"]


def test_images_without_the_figure_are_left_out():
    hd95 = torch.tensor([1.0, 3.0] * 10 + [float("nan")] * 10)
    low, high = all_intervals(counts_of(30), hd95)["medical"]["HD95"]
    assert 1 < low < 2 < high < 3
    assert all_intervals(counts_of(30), torch.full((30,), float("nan")))["medical"]["HD95"] is None


def test_a_single_image_has_none():
    found = all_intervals(counts_of(1))
    assert found["pooled_iou"] is None and set(found["mean_over_images"].values()) == {None}


def test_a_figure_of_a_single_image_has_none():
    """Nine images of ten have no boundary, or no target."""
    counts = counts_of(10)
    hd95 = torch.tensor([float("nan")] * 9 + [24.0])
    assert all_intervals(counts, hd95)["medical"]["HD95"] is None
    weights = np.array([0.0] * 9 + [3.0])
    assert bootstrap({"x": (weights / 2, weights)}) == {"x": None}
    hd95[0] = 20
    assert all_intervals(counts, hd95)["medical"]["HD95"] == [20, 24]


def test_a_long_list_is_drawn_in_parts():
    values = np.random.default_rng(3).random(5000)
    low, high = bootstrap({"x": (values, np.ones(5000))}, resamples=999)["x"]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(5000), rel=0.15)


def test_words():
    summary = {"intervals": {"pooled_iou": [0.25, 0.5], "medical": {"HD95": None}}}
    assert words(summary, "pooled_iou", scale=100) == "  [25.00, 50.00]"
    assert words(summary, "medical", "HD95") == words(summary, "other", "one") == words({}, "x") == ""


def test_the_benchmark_pools_eight_consecutive_images_and_weights_them():
    """Twelve images: a batch of eight and one of four. Written out."""
    counts = counts_of(12)
    expected = {"iou": 0.0, "F1": 0.0}
    for part in (slice(0, 8), slice(8, 12)):
        tp, fp, fn = (int(counts[name][part].sum()) for name in ("TP", "FP", "FN"))
        size = len(counts["TP"][part])
        se, pc = tp / (tp + fn), tp / (tp + fp)
        expected["iou"] += size * tp / (tp + fp + fn) / 12
        expected["F1"] += size * 2 * se * pc / (se + pc) / 12
    found = benchmark(counts)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5) and found["batch"] == 8
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    other = benchmark({name: values[order] for name, values in counts.items()})
    assert other["iou"] != pytest.approx(found["iou"], rel=1e-6)
    one_batch = {name: values[:8] for name, values in counts.items()}
    assert benchmark(one_batch)["iou"] == pytest.approx(pooled_iou(one_batch))
