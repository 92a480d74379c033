"""The figures of the paper, computed from logits.

Every figure is computed from the pixel counts of one image at threshold sigmoid(logit) > 0.5: TP, FP, FN, TN.

    iou = (TP + e) / (TP + FP + FN + e)    dice = 2 iou / (1 + iou)                           with e = 1e-5
    SE = TP / (TP + FN + d)    PC = TP / (TP + FP + d)    SP = TN / (TN + FP + d)             with d = 1e-6
    F1 = 2 SE PC / (SE + PC + d)              ACC = (TP + TN) / all pixels

The paper reports their means over the images. `pooled_iou` adds the counts of all images first, which gives another
number.

For an image without a target, this project applies the formulas unchanged (SE = PC = F1 = 0; iou = dice = 1 if nothing
is predicted, otherwise about 0). The authors' code treats such a mask as *all* target for SE, PC, SP, ACC and F1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PAPER_FIGURES = ("iou", "F1", "SE", "PC", "SP", "ACC", "dice")

COUNTS = ("TP", "FP", "FN", "TN")

_IOU_SMOOTH = 1e-5
_RATE_SMOOTH = 1e-6


@dataclass(frozen=True)
class Figure:
    """A figure of one image. An entry in `COUNT_FIGURES` or `utils.evaluation.mask_figures.MASK_FIGURES` adds it to
    per_image.csv, summary.json, the terminal, the report and the comparison.

    Args:
        of: its function, with the arguments described at the two tables; NaN where the figure is undefined.
        title: its usual name.
        unit: "%" for a share in 0..1, which is shown times 100.
        field: "paper", "medical", or "" for neither.
    """

    of: Callable[..., Any]
    title: str
    unit: str = "%"
    field: str = ""


def _iou(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    return (tp + _IOU_SMOOTH) / (tp + fp + fn + _IOU_SMOOTH)


def _sensitivity(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    return tp / (tp + fn + _RATE_SMOOTH)


def _precision(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    return tp / (tp + fp + _RATE_SMOOTH)


def _f1(*counts: Tensor) -> Tensor:
    se, pc = _sensitivity(*counts), _precision(*counts)
    return 2 * se * pc / (se + pc + _RATE_SMOOTH)


def _specificity(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    return tn / (tn + fp + _RATE_SMOOTH)


def _accuracy(tp: Tensor, fp: Tensor, fn: Tensor, tn: Tensor) -> Tensor:
    return (tp + tn) / (tp + fp + fn + tn)


def _dice(*counts: Tensor) -> Tensor:
    iou = _iou(*counts)
    return 2 * iou / (1 + iou)


# Figures from counts: of(TP, FP, FN, TN), floating-point tensors of equal shape, one entry per image.
COUNT_FIGURES = {
    "iou": Figure(_iou, "IoU", field="paper"),
    "F1": Figure(_f1, "F1", field="paper"),
    "SE": Figure(_sensitivity, "SE", field="paper"),
    "PC": Figure(_precision, "PC", field="paper"),
    "SP": Figure(_specificity, "SP", field="paper"),
    "ACC": Figure(_accuracy, "ACC", field="paper"),
    "dice": Figure(_dice, "Dice", field="medical"),
}


def confusion(logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """TP, FP, FN, TN of each image, int64 (B,), from logits and {0, 1} masks of shape (B, ...).

    Raises:
        ValueError: if the shapes differ.
    """
    if logits.shape != masks.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)} differ in shape")
    predicted = logits.flatten(1) > 0  # sigmoid(x) > 0.5 <=> x > 0
    target = masks.flatten(1) > 0.5
    return {
        "TP": (predicted & target).sum(1),
        "FP": (predicted & ~target).sum(1),
        "FN": (~predicted & target).sum(1),
        "TN": (~predicted & ~target).sum(1),
    }


def figures(counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The figures of `COUNT_FIGURES` of each image, float64 (B,), from its counts."""
    from utils.common.devices import widest_float  # here, so that the names of figures are available without torch

    of_images = [counts[name].to(widest_float(counts[name].device)) for name in COUNTS]
    return {name: figure.of(*of_images) for name, figure in COUNT_FIGURES.items()}


def predicted_share(counts: dict[str, Tensor]) -> Tensor:
    """The share of each image's pixels that are predicted as target, (B,); always 0 or 1 in a collapsed run."""
    predicted = counts["TP"] + counts["FP"]
    return predicted / (predicted + counts["FN"] + counts["TN"])


def paper_metrics(logits: Tensor, mask: Tensor) -> dict[str, float]:
    """The figures of `COUNT_FIGURES` of one image: iou, F1, SE, PC, SP, ACC, dice, each in 0..1.

    Args:
        logits: of one image, any shape, e.g. (1, H, W).
        mask: in {0, 1}, of the same shape.

    Raises:
        ValueError: if the shapes differ, or a logit is NaN: it would count as not predicted.
    """
    if logits.isnan().any():
        raise ValueError("the logits contain NaN")
    return {name: value.item() for name, value in figures(confusion(logits[None], mask[None])).items()}


def pooled_iou(counts: dict[str, Tensor]) -> float:
    """IoU over the data set: the counts of all images added up first, so that a large target weighs more."""
    tp, fp, fn = (counts[name].sum().item() for name in ("TP", "FP", "FN"))
    return (tp + _IOU_SMOOTH) / (tp + fp + fn + _IOU_SMOOTH)
