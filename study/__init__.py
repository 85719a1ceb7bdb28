"""Rotation-equivariant segmentation: group-equivariant U-Nets, compared."""

__version__ = "0.1.0"
