"""The eight views: what the roto-reflections of a patch do to the output of a network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from study.groups import P4M


@dataclass(frozen=True)
class Stability:
    """The tumour probability over the eight roto-reflections, seen in the original orientation (Fig. 2).

    Attributes:
        probability: of the patch as it is, ``(B, 1, H, W)``.
        mean, deviation: over the eight, ``(B, 1, H, W)``; the deviation is of the population (divided by 8). The mean
            is the output with eight-fold test-time augmentation.
        changed: where the eight do not agree on the decision (probability above 0.5), bool ``(B, 1, H, W)``; their
            share is the flip rate.
    """

    probability: Tensor
    mean: Tensor
    deviation: Tensor
    changed: Tensor


@torch.inference_mode()
def stability(network: nn.Module, images: Tensor) -> Stability:
    """Run a network on all eight roto-reflections of ``images`` (float ``(B, 3, H, W)``), in full float32 precision."""
    views = []
    # TF32 would add errors of 1e-3 to a promise of 1e-7 (and cudnn.flags switches cuDNN off unless told otherwise)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for g in range(P4M.order):
            turned = torch.sigmoid(network(P4M.transform_image(images, g)))
            views.append(P4M.transform_image(turned, int(P4M.inverse[g])))
    probabilities = torch.stack(views)  # (8, B, 1, H, W)
    decisions = probabilities > 0.5
    return Stability(
        probability=probabilities[0],
        mean=probabilities.mean(dim=0),
        deviation=probabilities.std(dim=0, correction=0),
        changed=decisions.any(dim=0) & ~decisions.all(dim=0),
    )
