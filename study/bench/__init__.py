"""Measurements of time, memory and behaviour, side by side in one process."""
