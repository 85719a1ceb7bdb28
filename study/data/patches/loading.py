"""How training reads a patch store: single patches as tensors, and batches in an order that can be resumed."""

import os

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from study.data.patches.integrity import UNREADABLE, read_patch, text
from study.data.patches.store import PatchStore
from study.errors import StudyError

OPEN_FILES = 256
"""Files that a process keeps open: fewer than systems allow, enough for most of Camelyon16."""


class PatchDataset(Dataset):
    """Patches of a store as ``(image, mask)``: uint8 tensors ``(3, H, W)`` and ``(1, H, W)``.

    A mask has the label values of :class:`~study.data.patches.schema.Patch`. Each process opens the files for itself:
    an HDF5 handle must not cross a fork.
    """

    def __init__(self, store: PatchStore, indices: np.ndarray) -> None:
        self.files = store.files
        self.hashes = None if store.hashes is None else store.hashes[indices]
        self.places = np.stack([store.file[indices], store.row[indices]], axis=1)  # (N, 2)
        self._open: dict[int, h5py.File] = {}
        self._process: int | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        number, row = (int(place) for place in self.places[item])
        try:
            expected = None if self.hashes is None else self.hashes[item]
            image, mask = read_patch(self._file(number), row, expected)
        except StudyError:
            raise
        except UNREADABLE as error:
            path = self.files[number][0]
            raise StudyError(f"{path}: patch {row} is damaged; delete the file and make it again") from error
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)[None]  # (3, H, W), (1, H, W)

    def _file(self, number: int) -> h5py.File:
        if self._process != os.getpid():
            self._open, self._process = {}, os.getpid()
        if number not in self._open:
            path, fingerprint = self.files[number]
            file = h5py.File(path, "r", rdcc_nbytes=0)  # chunks are read once each; hundreds of caches would add up
            if text(file.attrs["fingerprint"]) != fingerprint:
                raise StudyError(f"{path} was replaced by other data while it was in use; start again")
            if len(self._open) == OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()  # the one that was opened first
            self._open[number] = file
        return self._open[number]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}, "_process": None}


class ShuffledBatches(Sampler[list[int]]):
    """Batches for one epoch of a fixed number of batches, whatever the number of patches.

    The patches are drawn as one endless sequence of reshuffled passes, cut into epochs. The order depends on the
    seed and on ``epoch`` (set it before each) alone, so a resumed training goes on with the batches it would have
    had. Of several processes, each takes an equal share of every batch.
    """

    def __init__(
        self, count: int, batch_size: int, batches: int, *, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        if batch_size % processes:
            raise StudyError(f"a batch of {batch_size} cannot be shared by {processes} devices; change batch_size")
        self.count, self.batch_size, self.batches = count, batch_size, batches
        self.seed, self.rank, self.processes = seed, rank, processes
        self.epoch = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        drawn = self.batches * self.batch_size
        positions = np.arange(self.epoch * drawn, (self.epoch + 1) * drawn)
        passes = positions // self.count
        shuffles = [
            np.random.default_rng([self.seed, n]).permutation(self.count) for n in range(passes[0], passes[-1] + 1)
        ]
        order = np.stack(shuffles)[passes - passes[0], positions % self.count]
        yield from order.reshape(self.batches, self.batch_size)[:, self.rank :: self.processes].tolist()


def to_input(images: Tensor) -> Tensor:
    """uint8 images as the network's input: float32 from -1 to 1; pointwise, so it commutes with roto-reflections."""
    return images.float().div(127.5).sub(1)
