"""Label values in a mask or a decision: 0 is the background, 1, 2, ... are the other classes of the task.

Only methods of tensors are used here, so that what reads and writes masks needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""In a mask: nobody labelled this pixel; it counts in neither the loss nor the Dice."""


def one_against_rest(labels: Tensor, classes: int) -> Tensor:
    """Each class but the background by itself: 1 where it is, 0 where another is, :data:`IGNORE` where nobody labelled.

    Args:
        labels: uint8 ``(B, 1, H, W)``.
        classes: how many label values there are, the background's among them.

    Returns:
        uint8 ``(B * (classes - 1), 1, H, W)``; the classes of the first patch come first.
    """
    values = labels.new_tensor(range(1, classes)).view(1, -1, 1, 1)
    each = (labels == values).byte().masked_fill(labels == IGNORE, IGNORE)  # (B, classes - 1, H, W)
    return each.flatten(0, 1).unsqueeze(1)


def label_counts(mask: Tensor, classes: int) -> Tensor:
    """How many pixels of each class there are in each patch, int64 ``(B, classes)``, of masks ``(B, 1, H, W)``."""
    values = mask.new_tensor(range(classes)).view(1, -1, 1)
    return (mask.flatten(2) == values).sum(dim=2)  # (B, 1, H * W) == (1, classes, 1)
