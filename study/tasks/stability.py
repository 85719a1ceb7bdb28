"""The eight views: what the roto-reflections of a patch do to the output of a network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from study.groups import P4M
from study.tasks.registry import FOREGROUND
from study.tasks.task import Task


@dataclass(frozen=True)
class Stability:
    """The probabilities over the eight roto-reflections, seen in the original orientation (Fig. 2).

    They are maps ``(B, M, H, W)``: one of the foreground, or one of each class.

    Attributes:
        probability: of the patch as it is.
        mean, deviation: over the eight; the deviation is of the population (divided by 8). The mean is the output with
            eight-fold test-time augmentation.
        changed: where the eight do not agree on the decision, bool ``(B, 1, H, W)``; their share is the flip rate.
    """

    probability: Tensor
    mean: Tensor
    deviation: Tensor
    changed: Tensor

    @property
    def largest_deviation(self) -> Tensor:
        """Of the class whose probability is the least steady, ``(B, 1, H, W)``."""
        return self.deviation.amax(dim=1, keepdim=True)


@torch.inference_mode()
def stability(network: nn.Module, images: Tensor, task: Task = FOREGROUND) -> Stability:
    """Run a network on all eight roto-reflections of ``images`` (float ``(B, 3, H, W)``), in full float32 precision."""
    views = []
    # TF32 would add errors of 1e-3 to a promise of 1e-7 (and cudnn.flags switches cuDNN off unless told otherwise)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for g in range(P4M.order):
            turned = task.probabilities(network(P4M.transform_image(images, g)))
            views.append(P4M.transform_image(turned, int(P4M.inverse[g])))
    probabilities = torch.stack(views)  # (8, B, M, H, W)
    decisions = torch.stack([task.decide(view) for view in views])  # (8, B, 1, H, W)
    return Stability(
        probability=probabilities[0],
        mean=probabilities.mean(dim=0),
        deviation=probabilities.std(dim=0, correction=0),
        changed=(decisions != decisions[0]).any(dim=0),
    )
