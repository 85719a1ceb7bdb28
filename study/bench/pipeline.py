"""The rate of extraction from slides, and of loading into training, on slides of a realistic size.

Patches of Camelyon16 are cut at 10x, from a level of some 24,000 x 55,000 pixels in JPEG tiles of 512 x 512, with 100
to 200 million pixels of tissue. Here a level with as much tissue, and less glass (17,760 x 23,744 pixels), is made of
copies of a small real slide, side by side. Its tiles take as long to decode as those of a real slide, and its patches
are as far apart.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import openslide
import pandas as pd
import torch
from distributed import Client
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from study.bench.memory import peak_mb
from study.dask_client import dask_client
from study.data.extraction.one_slide import Scale, Task, extract_slide
from study.data.extraction.plan import plan
from study.data.patches.loading import PatchDataset, ShuffledBatches
from study.data.patches.store import Patch, PatchStore, write_patches
from study.data.slides.files import SlideFiles
from study.data.slides.pyramid import write_pyramid
from study.data.slides.slide import Slide
from study.errors import StudyError
from study.provenance import provenance

BATCH = 64  # the paper's


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement.

    Attributes:
        processes: number of processes that extract or load.
        rounds: number of times that everything is timed.
        patches: number of patches from every slide.
        copies: number of copies of the real slide in each row and each column of a slide.
        patch_size: side in pixels, at 10x.
    """

    processes: int
    rounds: int
    patches: int = 750  # 300,000 of 400 slides
    copies: int = 16
    patch_size: int = 320


def conditions(settings: Settings) -> dict:
    """Columns that every row of the results has."""
    return {"patch_size": settings.patch_size, **provenance(torch.device("cpu"), settings.processes)}


def extraction(source: Path, settings: Settings) -> pd.DataFrame:
    """Patches per second of the whole extraction, and of OpenSlide only reading the same regions.

    Both run in turn on the same processes, a slide each. Columns: ``round``, ``extraction``, ``openslide`` (patches
    per second) and ``share`` (of OpenSlide's rate).
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        slides = [_make_slide(Path(folder), source, n, settings.copies) for n in range(settings.processes)]
        tasks = _tasks(slides, settings.patches * len(slides), settings)
        with dask_client(settings.processes) as client:
            for n in range(-1, settings.rounds):  # the first round warms the processes up and does not count
                output = Path(folder) / "patches"  # a new folder each time: replacing files of this size takes longer
                start = time.perf_counter()
                tables = _in_turn(client, extract_slide, [(task, output) for task in tasks])
                middle = time.perf_counter()
                regions = zip(tasks, tables, strict=True)
                _in_turn(client, _read_only, [(t.slide, table, settings.patch_size) for t, table in regions])
                end = time.perf_counter()
                shutil.rmtree(output)
                count = sum(map(len, tables))
                rates = {"extraction": count / (middle - start), "openslide": count / (end - middle)}
                if n >= 0:
                    rows.append({"round": n, **rates, "share": rates["extraction"] / rates["openslide"]})
    return pd.DataFrame(rows)


def memory(source: Path, counts: tuple[int, ...], settings: Settings) -> pd.DataFrame:
    """Peak memory, in MB, of a fresh process that extracts from one slide; a row for each number of patches."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        slide = _make_slide(Path(folder), source, 0, settings.copies)
        for count in counts:
            (task,) = _tasks([slide], count, settings)
            with dask_client(1) as client:
                patches, peak = client.submit(_extract_and_weigh, task, Path(folder), pure=False).result()
            rows.append({"patches": patches, "peak_mb": peak})
    return pd.DataFrame(rows)


def loading(source: Path, settings: Settings) -> pd.DataFrame:
    """Patches per second into batches of 64, from the store and from two other formats.

    Columns: ``round``, ``format``, ``rate`` (patches per second) and ``kb`` (per patch on the disk).
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        formats = _formats(Path(folder), source, settings)
        for n in range(settings.rounds):
            for name, (dataset, size) in formats.items():
                rows.append({"round": n, "format": name, "rate": _rate(dataset, settings), "kb": size / 1000})
    return pd.DataFrame(rows)


def _make_slide(folder: Path, source: Path, number: int, copies: int) -> SlideFiles:
    """A slide at 10x of ``copies`` x ``copies`` real ones; every second slide has tumour, nearly as in Camelyon16."""
    name = f"{'normal' if number % 2 else 'tumor'}_{number + 1:03}"
    path = folder / f"{name}.tif"
    with Slide(source) as slide:
        view = slide.at(magnification=10)
        row = np.tile(view.read(0, 0, view.width, view.height), (1, copies, 1))  # (H, copies * W, 3)
    shape = (copies * row.shape[0], row.shape[1], 3)
    write_pyramid(path, (row for _ in range(copies)), shape, np.uint8, mpp=view.mpp, compression="jpeg")
    if number % 2:
        return SlideFiles(name, path, None, None, partial=False, tumour=False)
    annotation = path.with_suffix(".xml")
    annotation.write_text(_wavy_outlines(shape, np.random.default_rng(number)))
    return SlideFiles(name, path, annotation, None, partial=False, tumour=True)


def _wavy_outlines(shape: tuple[int, ...], rng: np.random.Generator, count: int = 12, points: int = 2000) -> str:
    """An annotation with 24,000 points around 12 million pixels of tumour, similar to tumor_011 and tumor_039."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    texts = []
    for _ in range(count):
        centre = rng.uniform(0.15, 0.85, 2) * shape[1::-1]
        radius = min(shape[:2]) * rng.uniform(0.02, 0.04) * (1 + 0.1 * np.sin(9 * angle) + 0.02 * np.sin(170 * angle))
        x, y = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
        corners = "".join(
            f'<Coordinate Order="{n}" X="{a:.1f}" Y="{b:.1f}" />' for n, (a, b) in enumerate(zip(x, y, strict=True))
        )
        texts.append(
            f'<Annotation Name="" Type="Polygon" PartOfGroup="Tumor"><Coordinates>{corners}</Coordinates></Annotation>'
        )
    return f"<ASAP_Annotations><Annotations>{''.join(texts)}</Annotations></ASAP_Annotations>"


def _tasks(slides: list[SlideFiles], patches: int, settings: Settings) -> list[Task]:
    return plan(slides, scale=Scale(settings.patch_size), patches=patches, seed=0, source="").tasks


def _in_turn(client: Client, function: Callable, arguments: list[tuple]) -> list:
    """Run a function on every worker at once, and wait for all."""
    return client.gather([client.submit(function, *a, pure=False) for a in arguments])


def _read_only(path: Path, rows: pd.DataFrame, size: int) -> int:
    with openslide.OpenSlide(path) as slide:
        for x, y, level in zip(rows.x.tolist(), rows.y.tolist(), rows.level.tolist(), strict=True):
            slide.read_region((x, y), level, (size, size))
    return len(rows)


def _extract_and_weigh(task: Task, folder: Path) -> tuple[int, float]:
    return len(extract_slide(task, folder)), peak_mb(torch.device("cpu"))


def _formats(folder: Path, source: Path, settings: Settings) -> dict[str, tuple[Dataset, float]]:
    """The same patches as a store, as a compressed store, and as PNG files, each with the bytes of a patch."""
    count = settings.patches * settings.processes
    write_patches(
        folder / "raw.h5", _patches(source, count, settings.patch_size), {"a": "train"}, source="raw", recipe={}
    )
    (folder / "png").mkdir()
    with h5py.File(folder / "raw.h5") as raw, h5py.File(folder / "gzip.h5", "w") as packed:
        for name in ("x", "mask"):
            data = packed.create_dataset(name, raw[name].shape, np.uint8, chunks=raw[name].chunks, compression=1)
            for n in range(count):
                data[n] = raw[name][n]
                Image.fromarray(data[n]).save(folder / f"png/{n}-{name}.png")
        packed.attrs.update(raw.attrs)
        for name in set(raw) - {"x", "mask"}:
            raw.copy(name, packed)
    found = {}
    for name, file in [("HDF5 (the store)", folder / "raw.h5"), ("HDF5, gzip", folder / "gzip.h5")]:
        found[name] = PatchDataset(PatchStore(file), np.arange(count)), file.stat().st_size / count
    size = sum(file.stat().st_size for file in (folder / "png").iterdir()) / count
    return found | {"PNG files": (_PngDataset(folder / "png", count), size)}


class _PngDataset(Dataset):
    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = (
            torch.from_numpy(np.array(Image.open(self.folder / f"{n}-{name}.png"))) for name in ("x", "mask")
        )
        return image.permute(2, 0, 1), mask[None]  # (3, H, W), (1, H, W)


def _patches(source: Path, count: int, size: int) -> Iterator[Patch]:
    rng = np.random.default_rng(0)
    with Slide(source) as slide:
        view = slide.at(magnification=10)
        if min(view.width, view.height) <= size:
            raise StudyError(
                f"{source} has {view.width} x {view.height} pixels at 10x; give a slide of more than {size}"
            )
        for _ in range(count):
            image = view.read(*(int(rng.integers(n - size)) for n in (view.width, view.height)), size, size)
            yield Patch(image, (image[..., 1] < 150).astype(np.uint8), case="a", slide="a")


def _rate(dataset: Dataset, settings: Settings) -> float:
    """Patches per second over one pass, timed from the first batch on."""
    batches = len(dataset) // BATCH
    order = ShuffledBatches(len(dataset), BATCH, 2 * batches, seed=0)
    loader = iter(DataLoader(dataset, batch_sampler=order, num_workers=settings.processes))
    for _ in range(batches):
        next(loader)
    start = time.perf_counter()
    count = sum(len(images) for images, _ in loader)
    return count / (time.perf_counter() - start)
