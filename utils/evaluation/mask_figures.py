"""The figures that are computed from the masks of an image rather than from pixel counts, such as distances."""

from __future__ import annotations

from utils.evaluation.hausdorff import hd95
from utils.evaluation.pixel_metrics import COUNT_FIGURES, Figure

# of(predicted, target), both (H, W) bool, to a number; NaN where it is undefined: the mean skips such images.
MASK_FIGURES = {
    "hd95": Figure(hd95, "HD95", "pixels", field="medical"),
}


def every_figure() -> dict[str, Figure]:
    """The figures from counts and those from masks, by their names in per_image.csv."""
    return {**COUNT_FIGURES, **MASK_FIGURES}
