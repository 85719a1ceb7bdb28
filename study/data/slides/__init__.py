"""Whole slides: reading, tissue, annotations, masks."""
