"""From logits to probabilities to decisions, for one channel or several.

One channel is the probability of the foreground against the background, by a sigmoid, and is decided by a threshold.
Several are a probability of each class, the background's first, by a softmax, and the largest decides. For two classes
both say the same: ``softmax([0, z])[1] == sigmoid(z)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def probabilities(logits: Tensor) -> Tensor:
    """Of logits ``(B, M, H, W)``, in the same shape."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def decide(probability: Tensor, threshold: float = 0.5) -> Tensor:
    """The label value of each pixel, uint8 ``(B, 1, H, W)``, of probabilities ``(B, M, H, W)``.

    Args:
        threshold: of one channel; several need none.
    """
    if probability.shape[1] == 1:
        return (probability > threshold).byte()
    return probability.argmax(dim=1, keepdim=True).byte()
