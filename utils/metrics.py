"""The old path of `utils.evaluation.pixel_metrics`, which keeps working."""

from utils.evaluation.pixel_metrics import confusion, figures, paper_metrics, pooled_iou

__all__ = ["confusion", "figures", "paper_metrics", "pooled_iou"]
