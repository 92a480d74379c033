"""Losses, metrics, the training engine, checkpoints, settings and pictures."""
