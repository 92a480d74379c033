"""Figures of a trained network: pixel and target metrics, thresholds, paired tests, and their files."""
