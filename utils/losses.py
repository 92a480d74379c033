"""The path of `utils.training.losses` before version 1.0.0, which users' scripts may still import."""

from utils.training.losses import BCEDiceLoss

__all__ = ["BCEDiceLoss"]
