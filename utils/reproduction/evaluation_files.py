"""The files of an evaluation, as the line of a run needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utils.evaluation.pixel_metrics import COUNTS
from utils.reproduction.result_lines import check_figures

if TYPE_CHECKING:
    from utils.evaluation.read_results import Evaluation


def figures_of(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a line, from summary.json."""
    means = {name: value for name, value in summary["mean_over_images"].items() if not name.endswith("_undefined")}
    return {
        "images": summary["images"],
        **means,
        "pooled_iou": summary["pooled_iou"],
        **{f"benchmark_{name}": summary["benchmark"][name] for name in ("iou", "F1")},
        **{name: summary["infrared"][name] for name in ("nIoU", "Pd", "Fa_1e-6")},
        "hd95": summary["medical"]["HD95"],
    }


def are_complete(found: Evaluation, with_code: bool) -> bool:
    """Whether the files hold everything: those of earlier versions do not, nor do some that were edited."""
    try:
        check_figures(figures_of(found.summary))
    except (LookupError, TypeError, AttributeError, ValueError):
        return False
    return (
        len(found.names) == found.summary["images"]
        and {"F1", "target_pixels", *COUNTS} <= found.columns.keys()
        and isinstance(found.summary.get("protocol"), Mapping)
        and (not with_code or isinstance(found.summary.get("code"), Mapping))
    )
