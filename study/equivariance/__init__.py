"""How far a network is from equivariant, and, of anybody's network, where it breaks and why."""

from study.equivariance.diagnosis import Diagnosis, diagnose
from study.equivariance.errors import (
    assert_equivariant,
    equivariance_errors,
    measure,
    rotate,
    train_briefly,
    transform,
)

__all__ = [
    "Diagnosis",
    "assert_equivariant",
    "diagnose",
    "equivariance_errors",
    "measure",
    "rotate",
    "train_briefly",
    "transform",
]
