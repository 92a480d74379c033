"""What chooses best.pth: the figures that `train_seg.py --watch` takes, and what images without a target do to them.

The paper takes the mean over the images of their IoU. An image without a target counts 1 there if nothing is predicted,
so on a list with many of them a network that predicts nothing is hard to beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WATCHED = ("iou", "pooled_iou", "iou_with_target", "F1", "loss")
_PARTS = ("TP", "union", "with_target", "iou_where_target")


def parts(counts: Mapping[str, Tensor], iou: Tensor) -> dict[str, Tensor]:
    """Of each image, (B,): what `derive` makes pooled_iou and iou_with_target of, once their means are known."""
    with_target = counts["TP"] + counts["FN"] > 0
    values = (counts["TP"], counts["TP"] + counts["FP"] + counts["FN"], with_target, iou * with_target)
    return dict(zip(_PARTS, values, strict=True))


def derive(means: Mapping[str, float]) -> dict[str, float]:
    """The means over a list of images, those of `parts` replaced by pooled_iou and iou_with_target.

    pooled_iou is of the pixels of all images together. iou_with_target is the mean over the images that have a target;
    it is left out if none has.
    """
    figures = {name: value for name, value in means.items() if name not in _PARTS}
    if means.keys() >= set(_PARTS):
        figures["pooled_iou"] = means["TP"] / means["union"] if means["union"] else 1.0
        if means["with_target"]:
            figures["iou_with_target"] = means["iou_where_target"] / means["with_target"]
    return figures


def empty_note(empty: int, images: int, watch: str) -> str | None:
    """What to say of a validation list with images without a target; None if there is none."""
    if not empty:
        return None
    share = empty / images
    note = (
        f"warning: {empty} of {images} validation images ({100 * share:.1f} %) have no target. The IoU of such an "
        f"image is 1 if nothing is predicted, so a network that predicts nothing has a mean IoU of {share:.3f}"
    )
    if watch == "iou":
        note += ", and the mean IoU chooses best.pth. --watch pooled_iou or iou_with_target does not count them so"
    return note
