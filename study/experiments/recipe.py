"""How a network is built and trained, as values; :mod:`study.experiments.training` does it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from study.tasks.losses import DEFAULT_LOSS


@dataclass(frozen=True)
class Recipe:
    """All settings that decide a trained network, besides the model, the data and the seed.

    Attributes:
        network: the settings of the network that all models share, as ``width``, ``depth`` and ``grid`` of the U-Net
            (:class:`~study.networks.unet.UNetArchitecture`); and under ``network`` its name
            (:data:`~study.networks.registry.NETWORKS`), unless it is the U-Net.
        batch_size: patches per batch, over all devices together.
        epochs, batches_per_epoch: the length of the training; 468 batches of 64 are an epoch of the paper.
        learning_rate: Adam's initial learning rate.
        schedule: "plateau", the paper's: the rate is halved when the validation loss does not improve, and the weights
            of the lowest loss are the result; or "cosine": it is annealed to zero over the whole training, batch by
            batch, and the last weights are the result, so that none are chosen for a lucky validation.
        patience: on a plateau, tolerated epochs without a better validation loss, as in torch's
            ``ReduceLROnPlateau``; the learning rate is halved after the next, so 19 halves it after 20.
        precision: precision of the training, "32-true" or "bf16-mixed"; evaluation is in float32.
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
        """From one flat table, as in presets and records, where other keys are settings of the network."""
        known = {field.name for field in fields(cls)} - {"network"}
        own = {name: settings.pop(name) for name in known & settings.keys()}
        return cls(settings, **own)

    def settings(self) -> dict[str, object]:
        """All values in one flat table, for records.

        The U-Net and the default loss are not named there, as in older records.
        """
        own = asdict(self)
        values = own.pop("network") | own
        unnamed = {"network": "unet", "loss": DEFAULT_LOSS}
        return {key: value for key, value in values.items() if (key, value) not in unnamed.items()}
