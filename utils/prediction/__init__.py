"""Masks for images without masks: predictor, folders, tiles, demo page."""
