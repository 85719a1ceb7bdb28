"""The builder of all networks, by the name that users know."""

from study.networks.unet import build_unet

__all__ = ["build_unet"]
