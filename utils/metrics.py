"""The path of `utils.evaluation.pixel_metrics` before version 1.0.0, which users' scripts may still import."""

from utils.evaluation.pixel_metrics import confusion, figures, paper_metrics, pooled_iou

__all__ = ["confusion", "figures", "paper_metrics", "pooled_iou"]
