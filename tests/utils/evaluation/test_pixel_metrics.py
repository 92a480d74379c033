from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from utils.evaluation import pixel_metrics as metrics
from utils.training.losses import BCEDiceLoss

EMPTY_MASK = 6  # the row where the authors' code takes an empty mask as all target
NO_PREDICTION = 7


def golden_row(golden, i):
    mask = golden.masks(f"logit{i}", 1, 64)
    logits = 2 * golden.images(f"logit{i}", 1, 64)[:, :1] + 4 * mask - 2
    if i == EMPTY_MASK:
        mask = torch.zeros_like(mask)
    if i == NO_PREDICTION:
        logits = torch.full_like(logits, -5.0)
    return logits, mask


@pytest.mark.parametrize("i", [0, 1, 2, 3, 4, 5, 7])
def test_golden_figures(golden, i):
    logits, mask = golden_row(golden, i)
    ours = metrics.paper_metrics(logits[0], mask[0])
    for name, value in ours.items():
        assert value == pytest.approx(golden.metrics[i][name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("i", range(8))
def test_golden_loss(golden, i):
    logits, mask = golden_row(golden, i)
    assert BCEDiceLoss()(logits, mask).item() == pytest.approx(golden.metrics[i]["bce_dice"], rel=1e-5)


def test_an_empty_mask_is_empty(golden):
    logits, mask = golden_row(golden, EMPTY_MASK)
    ours = metrics.paper_metrics(logits[0], mask[0])
    assert ours["iou"] == pytest.approx(golden.metrics[EMPTY_MASK]["iou"])
    assert ours["SE"] == ours["PC"] == ours["F1"] == 0
    predicted = (logits > 0).double().mean().item()
    assert ours["ACC"] == pytest.approx(1 - predicted)
    assert ours["SP"] == pytest.approx(1 - predicted)


def test_nothing_there_and_nothing_predicted():
    ours = metrics.paper_metrics(torch.full((1, 8, 8), -1.0), torch.zeros(1, 8, 8))
    assert ours["iou"] == ours["dice"] == ours["ACC"] == 1


def test_a_logit_of_zero_is_background():
    ours = metrics.paper_metrics(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
    assert ours["SE"] == 0


def test_batch_figures_are_those_of_each_image(golden):
    rows = [golden_row(golden, i) for i in range(3)]
    batch = metrics.figures(metrics.confusion(torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows])))
    for i, (logits, mask) in enumerate(rows):
        assert metrics.paper_metrics(logits, mask) == {name: values[i].item() for name, values in batch.items()}


def test_pooled_iou_weighs_pixels_not_images():
    logits = torch.full((2, 1, 10, 10), -1.0)
    masks = torch.zeros(2, 1, 10, 10)
    masks[0, 0, :9] = 1
    logits[0, 0, :9] = 1  # a large target, found
    masks[1, 0, 0, 0] = 1  # one pixel, missed
    counts = metrics.confusion(logits, masks)
    assert metrics.pooled_iou(counts) == pytest.approx(90 / 91, rel=1e-6)
    assert metrics.figures(counts)["iou"].mean().item() == pytest.approx(0.5, abs=1e-4)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.paper_metrics(torch.zeros(1, 8, 8), torch.zeros(1, 8, 9))


def test_logits_that_are_nan_are_not_counted_as_background():
    logits = torch.full((1, 8, 8), torch.inf)
    assert metrics.paper_metrics(logits, torch.ones(1, 8, 8))["iou"] == 1
    logits[0, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        metrics.paper_metrics(logits, torch.ones(1, 8, 8))


def test_loss_of_each_sample_averages_to_the_loss(golden):
    logits, mask = golden_row(golden, 0)
    both = torch.cat([logits, -logits]), torch.cat([mask, mask])
    each = BCEDiceLoss(reduction="none")(*both)
    assert each.shape == (2,)
    assert each.mean().item() == pytest.approx(BCEDiceLoss()(*both).item())


def test_nothing_predicted_where_nothing_is_costs_next_to_nothing():
    """The smoothing is 1e-5: where both sums are about as small, it decides."""
    logits = torch.full((1, 1, 64, 64), -20.0)
    predicted = 64 * 64 * torch.sigmoid(logits[0, 0, 0, 0]).item()
    expected = 1 - 1e-5 / (predicted + 1e-5)
    assert BCEDiceLoss()(logits, torch.zeros_like(logits)).item() == pytest.approx(expected, rel=1e-3)


def test_figures_are_scikit_learns():
    """On 300 random pairs, among them empty, full and one-pixel ones; what scikit-learn calls undefined is 0 here."""
    rng = np.random.default_rng(0)
    for i in range(300):
        masks = rng.random((2, 7, 9)) < rng.choice([0, 0.01, 0.3, 0.7, 1], 2)[:, None, None]
        if i % 7 == 0:
            masks[0] = np.arange(63).reshape(7, 9) == i % 63
        target, predicted = masks
        logits, truth = torch.from_numpy(predicted)[None].float() - 0.5, torch.from_numpy(target)[None].float()
        counts = {name: value.item() for name, value in metrics.confusion(logits, truth).items()}
        flat = target.ravel(), predicted.ravel()
        tn, fp, fn, tp = reference.confusion_matrix(*flat, labels=[False, True]).ravel()
        assert counts == {"TP": tp, "FP": fp, "FN": fn, "TN": tn}
        ours = metrics.paper_metrics(logits[0], truth[0])
        zero = {"zero_division": 0}
        assert ours["SE"] == pytest.approx(reference.recall_score(*flat, **zero), abs=2e-6)
        assert ours["PC"] == pytest.approx(reference.precision_score(*flat, **zero), abs=2e-6)
        assert ours["SP"] == pytest.approx(reference.recall_score(*(~one for one in flat), **zero), abs=2e-6)
        assert ours["F1"] == pytest.approx(reference.f1_score(*flat, **zero), abs=2e-6)
        assert ours["ACC"] == reference.accuracy_score(*flat)
        nothing = not target.any() and not predicted.any()
        assert ours["iou"] == pytest.approx(1 if nothing else reference.jaccard_score(*flat, **zero), abs=2e-5)
        assert ours["dice"] == pytest.approx(1 if nothing else reference.f1_score(*flat, **zero), abs=2e-5)
