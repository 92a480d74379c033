"""The old import path of `utils.prediction.predictor`, kept for compatibility."""

from utils.prediction.predictor import Picture, Predictor

__all__ = ["Picture", "Predictor"]
