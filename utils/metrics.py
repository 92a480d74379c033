"""The old import path of `utils.evaluation.pixel_metrics`, kept for compatibility."""

from utils.evaluation.pixel_metrics import confusion, figures, paper_metrics, pooled_iou

__all__ = ["confusion", "figures", "paper_metrics", "pooled_iou"]
