"""Evaluation of a trained network: pixel and target metrics, thresholds, paired tests, and result files."""
