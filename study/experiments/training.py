"""One training run, on the devices of Lightning Fabric.

The optimiser is Adam, and epochs are counted in batches. By the paper's recipe the learning rate is halved after 20
epochs without a better validation loss, and the weights of the lowest one are the result. Or it is annealed to zero,
and the last weights are.
A training can be interrupted at any moment: its whole state is saved after every epoch.
"""

import copy
import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from study.data.patches.loading import PatchDataset, ShuffledBatches, to_input
from study.data.patches.splits import Split
from study.data.patches.store import PatchStore
from study.errors import StudyError, notice
from study.experiments.recipe import Recipe
from study.experiments.schedules import Cosine, Plateau
from study.experiments.shared_moments import share_moments
from study.groups import P4M
from study.memory import keep_freed_memory
from study.networks.checkpoint import load_tensors, save_tensors
from study.networks.models import MODELS
from study.tasks.labels import label_counts, one_against_rest
from study.tasks.measures import counts
from study.tasks.ratios import mean_dice
from study.tasks.registry import FOREGROUND
from study.tasks.task import Task

RUNAWAY_LOSS = 1000.0
"""A loss that ends a training; the mean cross-entropy of a pixel is below one, and a few at the start."""


@dataclass(frozen=True)
class Trained:
    """The network with the weights that are the result, the epoch they are of, and one row per epoch."""

    network: nn.Module
    history: list[dict]
    epoch: int

    @property
    def diverged(self) -> bool:
        """Whether the last epoch's training loss was above that of the best constant prediction on the same patches."""
        last = self.history[-1]
        return not last["train_loss"] <= last["constant_loss"]  # also true for NaN


def train(
    recipe: Recipe,
    model: str,
    store: PatchStore,
    split: Split,
    *,
    seed: int,
    fabric: Fabric,
    folder: Path,
    workers: int = 0,
    log: Callable[[dict], None] | None = None,
    task: Task = FOREGROUND,
) -> Trained:
    """Train one model, continuing from ``folder/last.pt`` if a run of the same settings was interrupted.

    Args:
        recipe: the settings.
        model: a name of :data:`~study.networks.models.MODELS`.
        store: the patches.
        split: the training and validation patches.
        seed: seed of the initial weights, of the order of the batches and of the augmentation.
        fabric: device, precision, and the number of processes.
        folder: folder of ``last.pt`` while the training runs.
        workers: number of processes that load patches, for each device; 0 loads in this process.
        log: called with each epoch's row, on the first process.
        task: the task, with the loss.

    Raises:
        StudyError: if the patches' size would break the equivariance of the network, a patch is damaged, the disk is
            full, or the training diverges.
    """
    for part in ("validation", "test"):
        if len(getattr(split, part)) < fabric.world_size:
            raise StudyError(f"{store.path} has too few {part} patches for {fabric.world_size} devices; use fewer")
    keep_freed_memory()
    torch.manual_seed(seed)
    network = MODELS[model].architecture(**recipe.network, num_classes=task.outputs).build()
    network.check_size(*store.size)
    if fabric.world_size > 1:
        network = share_moments(network, fabric.device.type)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    schedule = _schedule(recipe, optimizer)
    wrapped, optimizer = fabric.setup(network, optimizer)

    training, order = _training_batches(recipe, PatchDataset(store, split.train), fabric, seed=seed, workers=workers)
    validation = shared_loader(fabric, PatchDataset(store, split.validation), recipe.batch_size, workers)

    patches = hashlib.sha256(np.concatenate([split.train, [-1], split.validation]).tobytes()).hexdigest()[:16]
    settings = {**recipe.settings(), "model": model, "data": store.fingerprint, "patches": patches, "seed": seed}
    progress = Progress(network, optimizer, schedule)
    progress.restore(folder / "last.pt", settings)
    for epoch in range(len(progress.history), recipe.epochs):
        start = time.perf_counter()
        order.epoch = epoch
        # the same on every device, which takes its share of what is drawn for the whole batch
        generator = np.random.default_rng([seed, epoch, 0]) if MODELS[model].augmented else None
        row = {"epoch": epoch, "learning_rate": optimizer.param_groups[0]["lr"]}
        losses, constant = _train_epoch(wrapped, optimizer, schedule, training, fabric, generator, task)
        for n, loss in enumerate(losses):
            _stop_if_diverged(loss, f"loss of batch {n + 1} of epoch {epoch + 1}", recipe)
        # added one after the other in float32, as in all records
        row |= {"train_loss": float(sum(losses) / len(losses)), "constant_loss": constant}
        row |= validate(network, validation, fabric, task)
        _stop_if_diverged(row["validation_loss"], f"validation loss of epoch {epoch + 1}", recipe)
        row["seconds"] = round(time.perf_counter() - start, 2)
        progress.add(row)
        if fabric.is_global_zero:
            progress.save(folder / "last.pt", settings)
            if log:
                log(row)
    network.load_state_dict(progress.kept)
    return Trained(network.eval(), progress.history, progress.kept_epoch)


def _stop_if_diverged(loss: float, of: str, recipe: Recipe) -> None:
    """Stop a training that has no way back: by its numbers' overflow, or a loss far above what any network starts at.

    Raises:
        StudyError: naming the loss and the learning rate.
    """
    if not loss <= RUNAWAY_LOSS:  # also true for NaN
        remedy = f"lower learning_rate from {recipe.learning_rate:g} (--set learning_rate=..., and a --name)"
        raise StudyError(f"the training diverged: the {of} is {loss:.3g}; {remedy}")


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Plateau | Cosine:
    if recipe.schedule == "plateau":
        return Plateau(optimizer, patience=recipe.patience)
    return Cosine(optimizer, batches=recipe.epochs * recipe.batches_per_epoch)


def epochs_done(folder: Path) -> int:
    """The completed epochs of an interrupted training, which :func:`train` will not repeat."""
    try:
        return len(load_tensors(folder / "last.pt")["history"])
    except Exception:  # missing, or damaged in any way
        return 0


def _training_batches(
    recipe: Recipe, patches: PatchDataset, fabric: Fabric, *, seed: int, workers: int
) -> tuple[DataLoader, ShuffledBatches]:
    """The batches of this process, and their order, which must be told the epoch."""
    order = ShuffledBatches(
        len(patches),
        recipe.batch_size,
        recipe.batches_per_epoch,
        seed=seed,
        rank=fabric.global_rank,
        processes=fabric.world_size,
    )
    return _loader(fabric, patches, workers, batch_sampler=order), order


class Progress:
    """The state of a training: network, optimiser and schedule, one row for each epoch, and the weights to keep."""

    def __init__(self, network: nn.Module, optimizer, schedule: Plateau | Cosine) -> None:
        self._parts = {"network": network, "optimizer": optimizer, "rate": schedule.rate}
        self._schedule = schedule
        self.history: list[dict] = []
        self.kept: dict | None = None
        self.kept_epoch = -1

    def add(self, row: dict) -> None:
        """Record an epoch: adapt the learning rate, and keep the weights if they would be the result."""
        self.history.append(row)
        if self._schedule.result([row["validation_loss"] for row in self.history]) == len(self.history) - 1:
            # a copy, since the network's own tensors change
            self.kept, self.kept_epoch = copy.deepcopy(self._parts["network"].state_dict()), row["epoch"]
        self._schedule.after_epoch(row["validation_loss"])

    def save(self, path: Path, settings: dict) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        own = {"history": self.history, "kept": self.kept, "kept_epoch": self.kept_epoch}
        save_tensors(path, {"settings": settings, **state, **own})

    def restore(self, path: Path, settings: dict) -> None:
        """Continue an interrupted training, if its state exists; from the beginning, with a notice, if it is damaged.

        Raises:
            StudyError: if the state is of other settings; continuing would destroy it.
        """
        keys = ("settings", *self._parts, "history", "kept", "kept_epoch")
        try:
            loaded = load_tensors(path)
            state = {key: loaded[key] for key in keys}
        except FileNotFoundError:
            return
        except Exception:  # damaged in any way
            notice(f"{path} is damaged; the training starts from the beginning")
            return
        if state["settings"] != settings:
            raise StudyError(f"{path} is of other data or settings; give this study another --name, or delete the file")
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.history, self.kept, self.kept_epoch = state["history"], state["kept"], state["kept_epoch"]


def _train_epoch(
    network,
    optimizer,
    schedule,
    batches,
    fabric: Fabric,
    generator: np.random.Generator | None,
    task: Task = FOREGROUND,
) -> tuple[Tensor, float]:
    """One pass over ``batches``, roto-reflected at random if there is a ``generator``.

    Returns:
        The loss of each batch, the mean over the devices, ``(batches,)`` on the CPU; and that of the best constant
        prediction for all patches of the epoch.
    """
    network.train()
    losses = []
    labels = []  # pixels of each class in each patch, (B, C) of each batch
    for images, mask in batches:
        if generator is not None:
            elements = generator.integers(P4M.order, size=fabric.world_size * len(images))
            images, mask = roto_reflect(images, mask, elements[fabric.global_rank :: fabric.world_size])
        loss, number = task.loss(network(to_input(images)), mask)
        labels.append(label_counts(mask, len(task.classes)))
        if fabric.world_size > 1:  # the mean over the whole batch: DDP averages the gradients of the devices
            number = fabric.all_reduce(number.float(), reduce_op="mean")
        loss = loss / number.clamp(min=1)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.after_batch()
        losses.append(loss.detach())
    seen = fabric.all_gather(torch.cat(labels)).flatten(0, -2).cpu().numpy()  # (N, C), of all devices
    return fabric.all_reduce(torch.stack(losses)).cpu(), task.loss.of_best_constant(seen)


def roto_reflect(images: Tensor, mask: Tensor, elements: np.ndarray) -> tuple[Tensor, Tensor]:
    """Turn each patch of a batch, and its mask with it, by its element of P4M: one of 0 to 7 for each patch."""
    both = torch.cat([images, mask], dim=1)  # (B, 3 + 1, H, W), so that they turn together
    turned = torch.stack([P4M.transform_image(patch, int(g)) for patch, g in zip(both, elements, strict=True)])
    return turned[:, :3], turned[:, 3:]


@torch.inference_mode()
def validate(network: nn.Module, batches: DataLoader, fabric: Fabric, task: Task = FOREGROUND) -> dict[str, float]:
    """Mean loss over all labelled validation pixels and Dice pooled over them, summed over all devices.

    Of several classes the Dice is the mean of each one's.

    ``network`` is not wrapped: DDP would wait forever if one device has a batch more than another.
    """
    network.eval()
    classes = len(task.classes)
    # loss, what it is divided by, and tp, fp, fn of each class but the background
    sums = torch.zeros(2 + 3 * (classes - 1), dtype=torch.float64, device=fabric.device)
    for images, mask in batches:
        with fabric.autocast():
            logits = network(to_input(images)).float()
        decision = task.decide(task.probabilities(logits))
        each = [one_against_rest(labels, classes) for labels in (decision, mask)]  # (B * K, 1, H, W)
        found = counts(each[0] == 1, each[1]).view(len(mask), -1).sum(dim=0).double()  # (B * K, 3) -> (3 * K,)
        sums += torch.cat([torch.stack(task.loss(logits, mask)).double(), found])
    loss, number, *found = fabric.all_reduce(sums, reduce_op="sum").tolist()
    if not number:
        raise StudyError("no validation pixel is labelled; label some, or split more cases")
    return {"validation_loss": loss / number, "validation_dice": float(mean_dice(found))}


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
        warnings.simplefilter("ignore")  # Fabric advises more workers than the preset has
        return fabric.setup_dataloaders(loader, use_distributed_sampler=False)
