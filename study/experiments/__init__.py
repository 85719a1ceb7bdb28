"""Trials: presets, training, evaluation, the grid, provenance of what they write."""
