"""How a network is built and trained, as values; :mod:`study.experiments.training` does it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from study.tasks.losses import DEFAULT_LOSS


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a trained network is, besides the model, the data and the seed.

    Attributes:
        network: the settings of the network that all models share, as ``width``, ``depth`` and ``grid`` of the U-Net
            (:class:`~study.networks.unet.UNetArchitecture`); and under ``network`` its name
            (:data:`~study.networks.registry.NETWORKS`), unless it is the U-Net.
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

    network: Mapping[str, object]
    batch_size: int
    epochs: int
    batches_per_epoch: int
    learning_rate: float = 1e-3
    schedule: str = "plateau"
    patience: int = 19
    precision: str = "32-true"
    loss: str = DEFAULT_LOSS

    @classmethod
    def of(cls, **settings: object) -> "Recipe":
        """From one flat table, as presets and records have it: what is no attribute is a setting of the network."""
        known = {field.name for field in fields(cls)} - {"network"}
        own = {name: settings.pop(name) for name in known & settings.keys()}
        return cls(settings, **own)

    def settings(self) -> dict[str, object]:
        """All values in one flat table, for records.

        The U-Net and the default loss are not named there, as they were not when there were no others.
        """
        own = asdict(self)
        values = own.pop("network") | own
        unnamed = {"network": "unet", "loss": DEFAULT_LOSS}
        return {key: value for key, value in values.items() if (key, value) not in unnamed.items()}
