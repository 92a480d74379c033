"""The figures of the paper, from logits to numbers. This is the one place where a prediction is counted.

Every figure rests on the counts of one image, at threshold sigmoid(logit) > 0.5: TP, FP, FN, TN pixels.

    iou = (TP + e) / (TP + FP + FN + e)    dice = 2 iou / (1 + iou)                           with e = 1e-5
    SE = TP / (TP + FN + d)    PC = TP / (TP + FP + d)    SP = TN / (TN + FP + d)             with d = 1e-6
    F1 = 2 SE PC / (SE + PC + d)              ACC = (TP + TN) / all pixels

The paper reports their means over the images. `pooled_iou` adds the counts of all images first; it is another number.

An image without a target: ours takes the formulas as they stand (SE = PC = F1 = 0; iou = dice = 1 if nothing is
predicted, else about 0). The authors' code takes such a mask as *all* target for SE, PC, SP, ACC and F1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PAPER_FIGURES = ("iou", "F1", "SE", "PC", "SP", "ACC", "dice")

COUNTS = ("TP", "FP", "FN", "TN")

_IOU_SMOOTH = 1e-5
_RATE_SMOOTH = 1e-6


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
    """The figures of `PAPER_FIGURES` of each image, float64 (B,), from its counts."""
    from utils.common.devices import widest_float  # here: names of figures are known without torch

    tp, fp, fn, tn = (counts[name].to(widest_float(counts[name].device)) for name in COUNTS)
    se = tp / (tp + fn + _RATE_SMOOTH)
    pc = tp / (tp + fp + _RATE_SMOOTH)
    iou = (tp + _IOU_SMOOTH) / (tp + fp + fn + _IOU_SMOOTH)
    return {
        "iou": iou,
        "F1": 2 * se * pc / (se + pc + _RATE_SMOOTH),
        "SE": se,
        "PC": pc,
        "SP": tn / (tn + fp + _RATE_SMOOTH),
        "ACC": (tp + tn) / (tp + fp + fn + tn),
        "dice": 2 * iou / (1 + iou),
    }


def predicted_share(counts: dict[str, Tensor]) -> Tensor:
    """The share of each image's pixels that are predicted as target, (B,): 0 or 1 throughout in a collapsed run."""
    predicted = counts["TP"] + counts["FP"]
    return predicted / (predicted + counts["FN"] + counts["TN"])


def paper_metrics(logits: Tensor, mask: Tensor) -> dict[str, float]:
    """The paper's figures of one image: iou, F1, SE, PC, SP, ACC, dice, each in 0..1.

    Args:
        logits: of one image, any shape, e.g. (1, H, W).
        mask: of the same shape, in {0, 1}.

    Raises:
        ValueError: if the shapes differ.
    """
    return {name: value.item() for name, value in figures(confusion(logits[None], mask[None])).items()}


def pooled_iou(counts: dict[str, Tensor]) -> float:
    """IoU over the data set: the counts of all images added up first, so that a large target weighs more."""
    tp, fp, fn = (counts[name].sum().item() for name in ("TP", "FP", "FN"))
    return (tp + _IOU_SMOOTH) / (tp + fp + fn + _IOU_SMOOTH)
