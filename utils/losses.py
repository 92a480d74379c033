"""The old path of `utils.training.losses`, which keeps working."""

from utils.training.losses import BCEDiceLoss

__all__ = ["BCEDiceLoss"]
