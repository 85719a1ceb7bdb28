"""From maps to sums over pixels, of which :mod:`study.tasks.ratios` makes measures; the table of them is in
:mod:`study.experiments.evaluation`.

Every sum is of one patch and adds up over patches, cases and seeds. Pixels that nobody labelled
(:data:`~study.tasks.labels.IGNORE`) count in none. A mask has 1 where the foreground is and 0 elsewhere: of several
classes each is measured against the rest (:func:`~study.tasks.labels.one_against_rest`).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from study.tasks.labels import IGNORE, one_against_rest

TOLERANCE = 2
"""How far apart the boundaries of decision and truth may be, in pixels, and half the width of the border."""

BINS = 15
"""Of the probability, equally wide, for the calibration (as many as in Guo et al. 2017)."""


def counts(decision: Tensor, mask: Tensor) -> Tensor:
    """True positives, false positives and false negatives of each patch, ``(B, 3)``.

    Args:
        decision: whether a pixel is found to be foreground, bool ``(B, 1, H, W)``.
        mask: uint8 ``(B, 1, H, W)``.
    """
    truth = mask == 1
    false_positive = decision & ~truth & (mask != IGNORE)
    found = torch.stack([decision & truth, false_positive, ~decision & truth], dim=1)  # (B, 3, 1, H, W)
    return found.sum(dim=(2, 3, 4))  # (torchmetrics' samplewise stat_scores fails on a batch of one)


def boundary_counts(decision: Tensor, mask: Tensor) -> Tensor:
    """Boundary pixels of the decision, those near the truth's boundary, and the same the other way, ``(B, 4)``.

    Near is within :data:`TOLERANCE`; see :func:`counts` for the arguments.
    """
    labelled = mask != IGNORE
    ours, truth = boundary(decision & labelled, ~decision & labelled), boundary(mask == 1, mask == 0)
    found = torch.stack([ours, ours & within(truth, TOLERANCE), truth, truth & within(ours, TOLERANCE)], dim=1)
    return found.sum(dim=(2, 3, 4))  # of (B, 4, 1, H, W)


def stability_sums(deviation: Tensor, changed: Tensor, mask: Tensor, classes: int = 2) -> Tensor:
    """At the border and in the interior: pixels, flips among them, and the sum of their deviations, float64 ``(B, 6)``.

    The border is what lies within :data:`TOLERANCE` of the boundary of any class but the background in the truth, the
    interior all else that is labelled.

    Args:
        deviation, changed: ``(B, 1, H, W)``, see :class:`~study.tasks.stability.Stability`.
        mask: label values ``(B, 1, H, W)``.
        classes: how many there are.
    """
    each = one_against_rest(mask, classes)  # (B * K, 1, H, W)
    boundaries = boundary(each == 1, each == 0).view(len(mask), -1, *mask.shape[2:])  # (B, K, H, W)
    near = within(boundaries.any(dim=1, keepdim=True), TOLERANCE)
    labelled = mask != IGNORE
    sums = []
    for region in (labelled & near, labelled & ~near):
        sums += [values.sum(dim=(1, 2, 3)) for values in (region, changed & region, deviation.double() * region)]
    return torch.stack([column.double() for column in sums], dim=1)


def reliability(probability: Tensor, mask: Tensor) -> Tensor:
    """In each bin of the probability: pixels, their sum of probabilities, and those in the foreground.

    Returns:
        float64 ``(B, BINS, 3)``, of maps ``(B, 1, H, W)``.
    """
    labelled, patches = mask != IGNORE, len(mask)
    bins = (probability * BINS).long().clamp(0, BINS - 1)
    bins += BINS * torch.arange(patches, device=bins.device).view(-1, 1, 1, 1)
    values = (torch.ones_like(probability), probability, mask == 1)
    sums = [torch.bincount(bins[labelled], v[labelled].double(), minlength=patches * BINS) for v in values]
    return torch.stack(sums, dim=1).view(patches, BINS, 3)  # of (B * BINS, 3)


def boundary(foreground: Tensor, background: Tensor) -> Tensor:
    """The foreground pixels with a 4-neighbour in the background, bool ``(B, 1, H, W)``.

    There is nothing outside the image and nothing where nobody labelled: no boundary runs along either.
    """
    return foreground & within(background, 1)


def within(pixels: Tensor, distance: int) -> Tensor:
    """Where the Euclidean distance to the nearest of ``pixels``, bool ``(B, 1, H, W)``, is ``distance`` or less."""
    offsets = torch.arange(-distance, distance + 1, device=pixels.device)
    disk = (offsets[:, None] ** 2 + offsets**2 <= distance**2).float()
    return F.conv2d(pixels.float(), disk[None, None], padding=distance) > 0.5  # counts, in whatever precision
