"""Group convolutions from scratch, in PyTorch alone."""

from study.gconv.layers import GroupBatchNorm2d, GroupConv2d, GroupConvTranspose2d, LiftingConv2d, ProjectionConv2d
from study.gconv.pooling import GroupMaxPool2d, OrientationPool2d
from study.gconv.symmetric import SymmetricConv2d, SymmetricConvTranspose2d

__all__ = [
    "GroupBatchNorm2d",
    "GroupConv2d",
    "GroupConvTranspose2d",
    "GroupMaxPool2d",
    "LiftingConv2d",
    "OrientationPool2d",
    "ProjectionConv2d",
    "SymmetricConv2d",
    "SymmetricConvTranspose2d",
]
