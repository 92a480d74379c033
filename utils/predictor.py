"""The old path of `utils.prediction.predictor`, which keeps working."""

from utils.prediction.predictor import Picture, Predictor

__all__ = ["Picture", "Predictor"]
