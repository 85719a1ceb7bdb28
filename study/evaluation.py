"""How good a network is, and how steady: Dice, and what the eight roto-reflections of a patch do to its output."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from study.data.loading import to_input
from study.data.patches import IGNORE
from study.groups import P4M


@dataclass(frozen=True)
class Stability:
    """The tumour probability over the eight roto-reflections, seen in the original orientation (Fig. 2).

    Attributes:
        probability: of the patch as it is, ``(B, 1, H, W)``.
        mean, deviation: over the eight, ``(B, 1, H, W)``; the deviation is of the population (divided by 8).
        changed: where the eight do not agree on the decision (probability above 0.5), bool ``(B, 1, H, W)``.
    """

    probability: Tensor
    mean: Tensor
    deviation: Tensor
    changed: Tensor


def counts(probability: Tensor, mask: Tensor) -> Tensor:
    """True positives, false positives and false negatives of each patch, ``(B, 3)``, for probabilities above 0.5.

    Pixels that nobody labelled (:data:`~study.data.patches.IGNORE`) count as none of them.
    """
    decision, truth = probability > 0.5, mask == 1
    false_positive = decision & ~truth & (mask != IGNORE)
    found = torch.stack([decision & truth, false_positive, ~decision & truth], dim=1)  # (B, 3, 1, H, W)
    return found.sum(dim=(2, 3, 4))  # (torchmetrics' samplewise stat_scores fails on a batch of one)


def dice(tp, fp, fn):
    """``2 TP / (2 TP + FP + FN)`` from counts of pixels (numbers or arrays); 1 where nothing is there or found."""
    total = 2 * np.asarray(tp) + fp + fn
    return np.where(total > 0, 2 * np.asarray(tp) / np.maximum(total, 1), 1.0)


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


def evaluate(network: nn.Module, batches: DataLoader, device: torch.device) -> Iterator[pd.DataFrame]:
    """Score a network patch by patch, in eval mode; one table per batch, as they are done.

    Columns: ``tp``, ``fp``, ``fn`` (pixels), ``deviation`` (mean over pixels of the standard deviation over the eight
    roto-reflections), ``deviation_max`` and ``changed`` (share of pixels whose decision changes).
    """
    network.eval()
    for images, mask in batches:
        views = stability(network, to_input(images.to(device)))
        columns = {
            **dict(zip(("tp", "fp", "fn"), counts(views.probability, mask.to(device)).T, strict=True)),
            "deviation": views.deviation.mean(dim=(1, 2, 3)),
            "deviation_max": views.deviation.amax(dim=(1, 2, 3)),
            "changed": views.changed.float().mean(dim=(1, 2, 3)),
        }
        yield pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def summarise(patches: pd.DataFrame) -> dict[str, float | None]:
    """The numbers of one trial from its patches (see :func:`evaluate`).

    ``dice`` is pooled over all pixels (primary), ``dice_per_patch`` the mean over patches with foreground (secondary,
    None if there is none);
    ``deviation``, ``deviation_max`` and ``changed`` are over all pixels of all patches.
    """
    with_foreground = patches[patches.tp + patches.fn > 0]
    per_patch = dice(with_foreground.tp, with_foreground.fp, with_foreground.fn)
    return {
        "dice": float(dice(patches.tp.sum(), patches.fp.sum(), patches.fn.sum())),
        "dice_per_patch": float(per_patch.mean()) if len(per_patch) else None,
        "deviation": float(patches.deviation.mean()),
        "deviation_max": float(patches.deviation_max.max()),
        "changed": float(patches.changed.mean()),
    }
