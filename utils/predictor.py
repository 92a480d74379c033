"""The path of `utils.prediction.predictor` before version 1.0.0, which users' scripts may still import."""

from utils.prediction.predictor import Picture, Predictor

__all__ = ["Picture", "Predictor"]
