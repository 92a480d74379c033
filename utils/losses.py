"""The old import path of `utils.training.losses`, kept for compatibility."""

from utils.training.losses import BCEDiceLoss

__all__ = ["BCEDiceLoss"]
