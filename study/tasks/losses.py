"""What a training makes small. A new loss is a class with these two methods and a line in :data:`LOSSES`.

A loss gives a sum and what it is to be divided by. Both add up over batches and over devices, so that the loss of an
epoch and that of a validation are means over all that was seen, however it was cut into batches. torch and scipy are
imported when a loss is computed: the command line knows the names of the losses without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from study.tasks.activation import probabilities
from study.tasks.labels import IGNORE, one_against_rest

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """How far logits are from a mask."""

    def __call__(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """A sum, and the number that it is to be divided by to be a mean; unlabelled pixels count in neither.

        Args:
            logits: ``(B, M, H, W)``; one channel is of the foreground, several are of one class each.
            mask: label values, uint8 ``(B, 1, H, W)``.
        """
        ...

    def of_best_constant(self, counts: np.ndarray) -> float:
        """The mean that a network would have which gives every pixel the same answer, the best one.

        A training that ends above it has learnt nothing.

        Args:
            counts: how many pixels of each class there were in each patch, ``(N, classes)``.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy per labelled pixel: of a Bernoulli variable for one channel, else of a categorical one."""

    def __call__(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        from torch.nn import functional as F

        labelled = mask != IGNORE
        if logits.shape[1] == 1:
            loss = F.binary_cross_entropy_with_logits(
                logits, (mask == 1).to(logits.dtype), weight=labelled.to(logits.dtype), reduction="sum"
            )
        else:
            target = mask.squeeze(1).long()  # (B, H, W)
            loss = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
        return loss, labelled.sum()

    def of_best_constant(self, counts: np.ndarray) -> float:
        """The entropy of the classes' shares, which are the best constant."""
        from scipy.special import entr

        _, *foreground = counts.sum(axis=0)
        shares = np.array(foreground) / max(counts.sum(), 1)
        return float(entr([*shares, max(0.0, 1 - shares.sum())]).sum())


@dataclass(frozen=True)
class SoftDice:
    """One minus the soft Dice of each class but the background, in each patch (Drozdzal et al. 2016, arXiv:1608.04117).

    ``1 - (2 sum p t + 1) / (sum p + sum t + 1)`` with the probability p and the truth t of the patch's labelled pixels;
    the ones make it 0 where a class is neither there nor found. Patches that nobody labelled do not count.
    """

    def __call__(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision cannot sum pixels
        labelled, classes = mask != IGNORE, max(2, logits.shape[1])
        p = probabilities(logits)[:, 1 - classes :] * labelled  # (B, K, H, W), without the background's channel
        truth = (one_against_rest(mask, classes) == 1).view(p.shape)
        size = p.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))  # (B, K)
        dice = (2 * (p * truth).sum(dim=(2, 3)) + 1) / (size + 1)
        return (1 - dice).sum(), labelled.flatten(1).any(dim=1).sum() * (classes - 1)

    def of_best_constant(self, counts: np.ndarray) -> float:
        """The best of those that name one class everywhere."""
        counts = counts[counts.any(axis=1)]  # the patches that are labelled
        if len(counts) == 0:
            return 0.0
        pixels, truth = counts.sum(axis=1, keepdims=True), counts[:, 1:]  # (N, 1), (N, K)
        losses = []
        for named in np.eye(counts.shape[1])[:, 1:]:  # 1 for the class that is named, (K,); none is the background
            losses.append((1 - (2 * truth * named + 1) / (pixels * named + truth + 1)).mean())
        return float(min(losses))


LOSSES: dict[str, Loss] = {"cross-entropy": CrossEntropy(), "soft-dice": SoftDice()}
"""By the name that recipes and ``--set loss=`` use."""

DEFAULT_LOSS = "cross-entropy"
"""That of all records from before there were two, which do not name it."""
