"""Prediction: the predictor, folders of images, tiles, and the demo page."""
