"""Schedules of the learning rate, and the epoch whose weights are the result."""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau


class Plateau:
    """The paper's: halved when the validation loss does not improve; the weights of the lowest loss are the result.

    Args:
        patience: tolerated epochs without a better validation loss; the next one halves the rate.
    """

    def __init__(self, optimizer: Optimizer, *, patience: int) -> None:
        self.rate: LRScheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)

    def after_batch(self) -> None:
        pass

    def after_epoch(self, validation_loss: float) -> None:
        self.rate.step(validation_loss)

    def result(self, losses: Sequence[float]) -> int:
        """The epoch whose weights are the result, given the validation loss of each epoch so far."""
        return min(range(len(losses)), key=losses.__getitem__)


class Cosine:
    """Annealed to zero over all batches; the last weights are the result, so that none are chosen for a lucky epoch."""

    def __init__(self, optimizer: Optimizer, *, batches: int) -> None:
        self.rate: LRScheduler = CosineAnnealingLR(optimizer, T_max=batches)

    def after_batch(self) -> None:
        self.rate.step()

    def after_epoch(self, validation_loss: float) -> None:
        pass

    def result(self, losses: Sequence[float]) -> int:
        """See :meth:`Plateau.result`."""
        return len(losses) - 1


SCHEDULES = ("plateau", "cosine")
