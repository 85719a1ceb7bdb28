"""How a network is trained, as values; :mod:`study.experiments.training` does it."""

from dataclasses import asdict, dataclass

from study.tasks.losses import DEFAULT_LOSS


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a trained network is, besides the model, the data and the seed.

    Attributes:
        width, depth, grid: of :func:`~study.networks.unet.build_unet`.
        batch_size: patches per batch, over all devices together.
        epochs, batches_per_epoch: the length of the training; 468 batches of 64 are an epoch of the paper.
        learning_rate: of Adam, at the start.
        schedule: "plateau", the paper's: the rate is halved when the validation loss gets no better, and the weights of
            the lowest one are the result; or "cosine": it is annealed to zero over the whole training, batch by batch,
            and the last weights are the result, so that none are chosen for a lucky validation.
        patience: on a plateau, epochs without a better validation loss that are put up with, as in torch's
            ``ReduceLROnPlateau``; the learning rate is halved after the next, so 19 halves it after 20.
        precision: of the training, "32-true" or "bf16-mixed"; evaluation is in float32.
        loss: a key of :data:`~study.tasks.losses.LOSSES`.
    """

    width: int
    depth: int
    grid: str
    batch_size: int
    epochs: int
    batches_per_epoch: int
    learning_rate: float = 1e-3
    schedule: str = "plateau"
    patience: int = 19
    precision: str = "32-true"
    loss: str = DEFAULT_LOSS

    def settings(self) -> dict:
        """All of it, for records; the default loss is not named there, as it was not when there was only that."""
        named = asdict(self)
        return named if self.loss != DEFAULT_LOSS else {key: value for key, value in named.items() if key != "loss"}
