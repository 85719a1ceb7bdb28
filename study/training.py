"""One training run by the paper's recipe, on whatever devices Lightning Fabric was given.

Adam at 1e-3, halved after 20 epochs without a better validation loss; epochs counted in batches; the weights of the
lowest validation loss are the result. It can be cut at any moment: after every epoch its whole state is on disk.
"""

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from study.data.loading import PatchDataset, ShuffledBatches, to_input
from study.data.patches import IGNORE, PatchStore
from study.errors import StudyError
from study.groups import P4M
from study.measures import counts, dice
from study.memory import keep_freed_memory
from study.models import MODELS, save_tensors


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a trained network is, besides the model, the data and the seed.

    Attributes:
        width, depth, grid: of :func:`~study.unet.build_unet`.
        batch_size: patches per batch, over all devices together.
        epochs, batches_per_epoch: the length of the training; 468 batches of 64 are an epoch of the paper.
        learning_rate: of Adam, at the start.
        patience: epochs without a better validation loss that are put up with, as in torch's ``ReduceLROnPlateau``; the
            learning rate is halved after the next, so 19 halves it after 20.
        precision: of the training, "32-true" or "bf16-mixed"; evaluation is in float32.
    """

    width: int
    depth: int
    grid: str
    batch_size: int
    epochs: int
    batches_per_epoch: int
    learning_rate: float = 1e-3
    patience: int = 19
    precision: str = "32-true"


@dataclass(frozen=True)
class Trained:
    """The network with the weights of the lowest validation loss, and one row per epoch of how it came about."""

    network: nn.Module
    history: list[dict]
    best_epoch: int


def train(
    recipe: Recipe,
    model: str,
    store: PatchStore,
    *,
    fraction: float,
    seed: int,
    fabric: Fabric,
    folder: Path,
    workers: int = 0,
    title: str = "",
    log: Callable[[dict], None] | None = None,
) -> Trained:
    """Train one model on a data regime, going on from ``folder/last.pt`` if a run of the same settings was cut there.

    Args:
        recipe: the settings.
        model: a name of :data:`~study.models.MODELS`.
        store: the patches; trained on a ``fraction`` of its training split, watched on its validation split.
        seed: of the initial weights, of the regime, of the order of the batches and of the augmentation.
        fabric: device, precision, and the number of processes.
        folder: where ``last.pt`` is kept while the training runs.
        workers: processes that load patches, per device; 0 loads in this one.
        title: shown at the progress bar.
        log: called with each epoch's row, on the first process.

    Raises:
        StudyError: if the patches' size would break the equivariance of the network, a patch is damaged, the disk is
            full, or the loss is no longer finite.
    """
    for split in ("validation", "test"):
        if len(store.indices(split)) < fabric.world_size:
            raise StudyError(f"{store.path} has too few {split} patches for {fabric.world_size} devices; use fewer")
    keep_freed_memory()
    torch.manual_seed(seed)
    network = MODELS[model].architecture(width=recipe.width, depth=recipe.depth, grid=recipe.grid).build()
    network.grid.check(*store.size, network.depth)
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # moments over the whole batch, as on one device
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=recipe.patience)
    wrapped, optimizer = fabric.setup(network, optimizer)

    training, order = _training_batches(recipe, store, fabric, fraction=fraction, seed=seed, workers=workers)
    validation = shared_loader(fabric, PatchDataset(store, store.indices("validation")), recipe.batch_size, workers)

    settings = {**asdict(recipe), "model": model, "data": store.fingerprint, "fraction": fraction, "seed": seed}
    progress = Progress(network, optimizer, scheduler)
    progress.restore(folder / "last.pt", settings)
    with tqdm(
        total=recipe.epochs * recipe.batches_per_epoch,
        initial=len(progress.history) * recipe.batches_per_epoch,
        desc=title,
        unit="batch",
        dynamic_ncols=True,
        leave=False,
        disable=None if fabric.is_global_zero else True,  # None: shown only where someone watches
    ) as bar:
        for epoch in range(len(progress.history), recipe.epochs):
            start = time.perf_counter()
            order.epoch = epoch
            generator = np.random.default_rng([seed, epoch, fabric.global_rank]) if MODELS[model].augmented else None
            row = {
                "epoch": epoch,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "train_loss": _train_epoch(wrapped, optimizer, training, fabric, generator, bar),
                **validate(network, validation, fabric),
            }
            row["seconds"] = round(time.perf_counter() - start, 2)
            progress.add(row)
            bar.set_postfix_str(f"loss {row['train_loss']:.3f}, validation Dice {row['validation_dice']:.3f}")
            if fabric.is_global_zero:
                progress.save(folder / "last.pt", settings)
                if log:
                    log(row)
    network.load_state_dict(progress.best)
    return Trained(network.eval(), progress.history, progress.best_epoch)


def _training_batches(
    recipe: Recipe, store: PatchStore, fabric: Fabric, *, fraction: float, seed: int, workers: int
) -> tuple[DataLoader, ShuffledBatches]:
    """The batches of this process, and their order, which must be told the epoch."""
    regime = store.regime(fraction, seed=seed)
    order = ShuffledBatches(
        len(regime),
        recipe.batch_size,
        recipe.batches_per_epoch,
        seed=seed,
        rank=fabric.global_rank,
        processes=fabric.world_size,
    )
    return _loader(fabric, PatchDataset(store, regime), workers, batch_sampler=order), order


class Progress:
    """How far a training has come: network, optimiser and schedule, one row per epoch, and the best weights so far."""

    def __init__(self, network: nn.Module, optimizer, scheduler) -> None:
        self._parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
        self.history: list[dict] = []
        self.best: dict | None = None
        self.best_epoch = -1

    def add(self, row: dict) -> None:
        """Take note of an epoch: adapt the learning rate, keep the weights if they are the best so far."""
        loss = row["validation_loss"]
        if not np.isfinite(loss):
            raise StudyError(f"the validation loss is {loss} after epoch {row['epoch']}; lower learning_rate (--set)")
        if self.best is None or loss < self.history[self.best_epoch]["validation_loss"]:
            # a copy: the network's own tensors go on changing
            self.best, self.best_epoch = copy.deepcopy(self._parts["network"].state_dict()), row["epoch"]
        self._parts["scheduler"].step(loss)
        self.history.append(row)

    def save(self, path: Path, settings: dict) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        own = {"history": self.history, "best": self.best, "best_epoch": self.best_epoch}
        save_tensors(path, {"settings": settings, **state, **own})

    def restore(self, path: Path, settings: dict) -> None:
        """Go on from a training that was cut, if its state is there and readable.

        Raises:
            StudyError: if it is of other settings; going on would destroy it.
        """
        keys = ("settings", *self._parts, "history", "best", "best_epoch")
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            state = {key: loaded[key] for key in keys}
        except Exception:  # missing, or damaged in any way: start from the beginning
            return
        if state["settings"] != settings:
            raise StudyError(f"{path} is of other data or settings; give this study another --name, or delete the file")
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.history, self.best, self.best_epoch = state["history"], state["best"], state["best_epoch"]


def _train_epoch(
    network, optimizer, batches, fabric: Fabric, generator: np.random.Generator | None, bar: tqdm
) -> float:
    """One pass over ``batches``, roto-reflected at random if there is a ``generator``; returns the mean loss."""
    network.train()
    total = torch.zeros((), device=fabric.device)
    for images, mask in batches:
        if generator is not None:
            images, mask = roto_reflect(images, mask, generator)
        loss, labelled = summed_loss(network(to_input(images)), mask)
        if fabric.world_size > 1:  # the mean over the whole batch: DDP averages the gradients of the devices
            labelled = fabric.all_reduce(labelled.float(), reduce_op="mean")
        loss = loss / labelled.clamp(min=1)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach()
        bar.update()
    return float(fabric.all_reduce(total / len(batches)))


def roto_reflect(images: Tensor, mask: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Turn each patch of a batch by an element of P4M drawn at random, and its mask with it."""
    elements = generator.integers(P4M.order, size=len(images))
    both = torch.cat([images, mask], dim=1)  # (B, 3 + 1, H, W), so that they cannot part
    turned = torch.stack([P4M.transform_image(patch, int(g)) for patch, g in zip(both, elements, strict=True)])
    return turned[:, :3], turned[:, 3:]


def summed_loss(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy, summed over the pixels that somebody labelled, and how many they are."""
    labelled = mask != IGNORE
    loss = F.binary_cross_entropy_with_logits(
        logits, (mask == 1).to(logits.dtype), weight=labelled.to(logits.dtype), reduction="sum"
    )
    return loss, labelled.sum()


@torch.inference_mode()
def validate(network: nn.Module, batches: DataLoader, fabric: Fabric) -> dict[str, float]:
    """Mean loss over all labelled validation pixels and Dice pooled over them, summed over all devices.

    ``network`` is the bare one: DDP would wait for ever where one device has a batch more than another.
    """
    network.eval()
    sums = torch.zeros(5, dtype=torch.float64, device=fabric.device)  # loss, pixels, tp, fp, fn
    for images, mask in batches:
        with fabric.autocast():
            logits = network(to_input(images)).float()
        found = counts(logits.sigmoid(), mask).sum(dim=0).double()
        sums += torch.cat([torch.stack(summed_loss(logits, mask)).double(), found])
    loss, pixels, tp, fp, fn = fabric.all_reduce(sums, reduce_op="sum").tolist()
    return {"validation_loss": loss / pixels, "validation_dice": float(dice(tp, fp, fn))}


def shared_loader(fabric: Fabric, dataset: PatchDataset, batch_size: int, workers: int) -> DataLoader:
    """All patches once, in order; each of several processes loads an equal share."""
    share = Subset(dataset, range(fabric.global_rank, len(dataset), fabric.world_size))
    return _loader(fabric, share, workers, batch_size=max(1, batch_size // fabric.world_size))


def _loader(fabric: Fabric, dataset, workers: int, **batching) -> DataLoader:
    loader = DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=fabric.device.type == "cuda",
        **batching,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric advises more workers; the preset has chosen
        return fabric.setup_dataloaders(loader, use_distributed_sampler=False)
