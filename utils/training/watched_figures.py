"""The figures of `train_seg.py --watch`, which select best.pth, and the effect of images without a target on them.

The paper uses the mean IoU over the images. An image without a target counts as 1 if nothing is predicted, so on a list
with many such images a network that predicts nothing has a high mean IoU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = ("TP", "union", "with_target", "iou_where_target")


def parts(counts: Mapping[str, Tensor], iou: Tensor) -> dict[str, Tensor]:
    """The values of each image, (B,), from whose means `derive` computes pooled_iou and iou_with_target."""
    with_target = counts["TP"] + counts["FN"] > 0
    values = (counts["TP"], counts["TP"] + counts["FP"] + counts["FN"], with_target, iou * with_target)
    return dict(zip(_PARTS, values, strict=True))


def derive(means: Mapping[str, float]) -> dict[str, float]:
    """The means over a list of images, with those of `parts` replaced by pooled_iou and iou_with_target.

    pooled_iou is the IoU of the pixels of all images together. iou_with_target is the mean over the images with a
    target; it is missing if there are none.
    """
    figures = {name: value for name, value in means.items() if name not in _PARTS}
    if means.keys() >= set(_PARTS):
        figures["pooled_iou"] = means["TP"] / means["union"] if means["union"] else 1.0
        if means["with_target"]:
            figures["iou_with_target"] = means["iou_where_target"] / means["with_target"]
    return figures


def empty_note(empty: int, images: int, watch: str) -> str | None:
    """The warning about validation images without a target; None if there are none."""
    if not empty:
        return None
    share = empty / images
    note = (
        f"warning: {empty} of {images} validation images ({100 * share:.1f} %) have no target. The IoU of such an "
        f"image is 1 if nothing is predicted, so a network that predicts nothing has a mean IoU of {share:.3f}"
    )
    if watch == "iou":
        note += ", and the mean IoU selects best.pth. --watch pooled_iou and iou_with_target avoid this"
    return note
