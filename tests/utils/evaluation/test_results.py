"""What the terminal shows of results, image by image known."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from datasets.folder import make_loader
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.evaluation.evaluate import MaskLogits, evaluate
from utils.evaluation.mask_figures import MASK_FIGURES
from utils.evaluation.paired_tests import compare_figures
from utils.evaluation.pixel_metrics import COUNT_FIGURES, Figure
from utils.evaluation.read_results import read_evaluation, title
from utils.evaluation.result_files import written_together
from utils.evaluation.results import table, write_results


class Cases(torch.utils.data.Dataset):
    """Images that hold their own logits, and their masks."""

    def __init__(self, pairs):
        self.pairs = pairs
        self.cases = [argparse.Namespace(name=f"case{i}") for i in range(len(pairs))]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        predicted, mask = (torch.from_numpy(np.asarray(one, np.float32))[None] for one in self.pairs[i])
        return {"image": 2 * predicted - 1, "mask": mask, "name": f"case{i}"}


def evaluated(*pairs, batch_size=2, **views):
    predict = MaskLogits(nn.Identity(), Precision("off", torch.device("cpu")), **views)
    return evaluate(predict, make_loader(Cases(pairs), batch_size, workers=0))


def square(top, left, side=2, size=12):
    array = np.zeros((size, size))
    array[top : top + side, left : left + side] = 1
    return array


NOTHING = np.zeros((12, 12))


def text(results, field="both"):
    return table({"compared_at": "12x12 pixels", **results.summary()}, field)


def test_figures_of_known_images():
    results = evaluated(
        (square(1, 1), square(1, 1)),  # found
        (square(1, 6), square(1, 5)),  # found, one pixel aside: IoU 1/3
        (NOTHING, square(1, 1)),  # missed
        (square(8, 8), NOTHING),  # a false alarm
        (NOTHING, NOTHING),
    )
    summary = results.summary()
    assert (summary["images"], summary["images_without_target"]) == (5, 2)
    infrared, medical = summary["infrared"], summary["medical"]
    assert infrared["nIoU"] == pytest.approx((1 + 1 / 3 + 0 + 0 + 1) / 5)
    assert infrared["mIoU"] == summary["pooled_iou"] == pytest.approx((4 + 2) / (4 + 6 + 4 + 4), rel=1e-5)
    assert (infrared["targets"], infrared["found"], infrared["Pd"]) == (3, 2, 2 / 3)
    assert infrared["Fa_1e-6"] == pytest.approx(1e6 * 4 / (5 * 144))
    assert medical["HD95"] == pytest.approx((0 + 1) / 2)
    assert (medical["HD95_undefined"], medical["nothing_predicted"]) == (3, 1)
    assert medical["Dice"] == pytest.approx((1 + 0.5 + 0 + 0 + 1) / 5, abs=1e-5)
    shown = text(results)
    assert "66.67 %      2 of 3 targets found" in shown and "5555.56 x 1e-6" in shown
    assert "over 2 images; 3 skipped, without target (2) or without prediction (1)" in shown
    assert "2 of the images have no target" in shown and "compared at 12x12 pixels" in shown


def test_a_field_shows_its_own_figures():
    results = evaluated((square(1, 1), square(1, 1)))
    shown = {field: text(results, field) for field in ("medical", "infrared", "both")}
    assert {field: "HD95" in one for field, one in shown.items()} == {"medical": True, "infrared": False, "both": True}
    assert {field: "Pd" in one for field, one in shown.items()} == {"medical": False, "infrared": True, "both": True}
    pooled = ("pooled over the pixels of all images", "IoU over the data set")
    assert all(any(words in one for words in pooled) and "AP" in one for one in shown.values())
    assert not any("no target" in one for one in shown.values())


def test_nothing_to_find_leaves_figures_undefined():
    results = evaluated((NOTHING, NOTHING))
    summary = results.summary()
    assert summary["infrared"]["Pd"] is summary["medical"]["HD95"] is summary["sweep"]["roc_auc"] is None
    assert text(results).count("undefined") == 5


def test_the_batch_size_changes_nothing():
    rng = np.random.default_rng(0)
    pairs = [(rng.random((12, 12)), rng.random((12, 12)) < 0.2) for _ in range(5)]
    one, other = (evaluated(*pairs, batch_size=size) for size in (1, 3))
    assert one.summary() == other.summary()
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.scores.sum() == 5 * 144


def test_an_output_that_is_no_number_names_its_image():
    with pytest.raises(UserError, match=r"case1: .* is NaN"):
        evaluated((NOTHING, NOTHING), (NOTHING + np.nan, NOTHING), (NOTHING, NOTHING))


def test_a_process_without_an_image(monkeypatch):
    """Fewer images than processes: the last of them have nothing to add."""
    pair = square(1, 1), square(1, 2)
    alone = evaluated(pair)
    monkeypatch.setattr("utils.evaluation.evaluate.world_size", lambda: 2)
    monkeypatch.setattr("utils.evaluation.evaluate.gather", lambda share: [share, ([], 0 * share[1])])
    assert evaluated(pair).summary() == alone.summary()


def test_a_figure_of_ones_own_is_in_the_summary_the_terminal_and_the_table(monkeypatch, tmp_path):
    """One entry each: from counts, and from masks; undefined on the images without a target."""
    missed = Figure(lambda tp, fp, fn, tn: fn / (tp + fn), "missed")
    ratio = Figure(lambda predicted, target: predicted.sum() / target.sum() if target.any() else np.nan, "ratio", "x")
    monkeypatch.setitem(COUNT_FIGURES, "missed", missed)
    monkeypatch.setitem(MASK_FIGURES, "area_ratio", ratio)
    results = evaluated((square(1, 1), square(1, 1)), (square(1, 1, 4), square(1, 1)), (square(1, 1), NOTHING))
    means = results.summary()["mean_over_images"]
    assert (means["missed"], means["missed_undefined"]) == (0, 1)
    assert (means["area_ratio"], means["area_ratio_undefined"]) == (2.5, 1)
    shown = text(results)
    assert "  missed   0.00 %  [0.00, 0.00], over 2 images; 1 skipped, without target (1)" in shown
    assert "  ratio   2.50 x  [1.00, 4.00], over 2 images; 1 skipped" in shown
    with written_together(tmp_path, results.summary()) as beside:
        write_results(results, beside)
    evaluation = read_evaluation(tmp_path)
    assert {1, 4} < set(evaluation.columns["area_ratio"])
    assert (title("missed"), title("area_ratio")) == ("missed (%)", "ratio")
    compared = {row.column for row in compare_figures([evaluation, evaluation])}
    assert compared >= {"missed", "area_ratio", "iou", "hd95"}


@pytest.mark.parametrize(
    "views", [{}, {"tta": True}, {"tile": 8, "overlap": 0}, {"tile": 8, "overlap": 0, "tta": True}]
)
def test_an_output_that_is_not_finite_names_its_image(views):
    pairs = [(square(1, 1, size=16), square(1, 1, size=16)) for _ in range(4)]
    assert evaluated(*pairs, **views).counts["TP"].tolist() == [4] * 4
    pairs[2][0][7, 9] = np.nan
    with pytest.raises(UserError, match=r"^case2: the output of the network is NaN"):
        evaluated(*pairs, **views)
