"""Alternating measurements of time and memory."""
