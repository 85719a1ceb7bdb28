"""The files that ``predict`` writes; they appear together at the end, or not at all."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from study.data.slides.pyramid import write_pyramid
from study.data.slides.slide import View
from study.data.slides.tissue import RULE
from study.files import replacing
from study.networks.network import Network
from study.prediction.contours import SPECK, regions, trace, write_geojson
from study.prediction.disk_map import DiskMap
from study.prediction.overlay import picture_step, shrink, thumbnail, write_overlay
from study.prediction.slide import SIDE, predict_view
from study.tasks.task import Task, slug


@dataclass(frozen=True)
class Outputs:
    """The files of one prediction.

    Attributes:
        maps: of the probabilities; with stability also of their means and of their standard deviations over the eight
            roto-reflections. Each is of one channel of the task, in this order, and named by it if there are several.
        decision: the map of label values; None if there is one map of probabilities.
        overlay, contours: the picture, and the outlines as GeoJSON.
        stability: whether there are maps of means and deviations.
    """

    maps: tuple[Path, ...]
    decision: Path | None
    overlay: Path
    contours: Path
    stability: bool

    @classmethod
    def of(cls, folder: Path, name: str, task: Task, *, stability: bool) -> "Outputs":
        kinds = ("probability", "mean", "deviation") if stability else ("probability",)
        several = task.outputs > 1
        endings = [f"-{slug(channel)}" * several for channel in task.channels]
        return cls(
            tuple(folder / f"{name}-{kind}{ending}.tif" for kind in kinds for ending in endings),
            folder / f"{name}-decision.tif" if several else None,
            folder / f"{name}-overlay.png",
            folder / f"{name}-contours.geojson",
            stability,
        )

    def paths(self) -> list[Path]:
        return [*self.maps, *([self.decision] if self.decision else []), self.overlay, self.contours]


@dataclass(frozen=True)
class Found:
    """The result for one class: its area in mm², and the number of its regions in the GeoJSON."""

    name: str
    area: float
    regions: int


@dataclass(frozen=True)
class Summary:
    """Areas in mm²; ``found`` has each class, ``specks`` the number of regions too small for the GeoJSON."""

    tissue_area: float
    found: list[Found]
    specks: int
    tiles: int
    tiles_with_tissue: int


def predict_slide(
    network: Network,
    view: View,
    outputs: Outputs,
    *,
    task: Task,
    about: dict,
    side: int = SIDE,
    batch_size: int = 1,
) -> Summary:
    """Predict a slide at one scale and write the maps, the overlay and the contours, all within the tissue only.

    Args:
        network: in eval mode, on the device to run on.
        task: what it was trained for; names the classes and decides.
        about: the provenance, for the GeoJSON, which also states the rule of tissue and its area.
        side, batch_size: of the tiles, see :func:`~study.prediction.slide.predict_view`.

    Raises:
        StudyError: if the slide is damaged, the tiles are too small, the folder cannot be written or the disk is full.
    """
    folder = outputs.overlay.parent
    with ExitStack() as files:
        temporary = {path: files.enter_context(replacing(path)) for path in outputs.paths()}
        prediction = predict_view(
            network, view, folder, task=task, side=side, batch_size=batch_size, stability=outputs.stability
        )
        maps = files.enter_context(prediction.maps)
        for number, path in enumerate(outputs.maps):
            write_pyramid(temporary[path], maps.strips(number), maps.shape[1:], np.float32, mpp=view.mpp)
        if outputs.decision:
            labels, shape = decisions(maps, task), maps.shape[1:]
            write_pyramid(temporary[outputs.decision], labels, shape, np.uint8, mpp=view.mpp, reduce="nearest")
        found, drawn, specks = [], [], 0
        for label, name in task.foreground.items():
            pixels = sum(int((strip == label).sum()) for strip in decisions(maps, task))
            here = (strip == label for strip in decisions(maps, task))
            outlines, dropped = trace(here, speck=SPECK / view.mpp**2)
            own = regions(outlines, mpp=view.mpp, label=label)
            drawn += own
            specks += dropped + len(outlines) - len(own)
            found.append(Found(name, pixels * view.mpp**2 / 1e6, len(own)))
        write_geojson(
            temporary[outputs.contours],
            drawn,
            task=task,
            size=(view.slide.width, view.slide.height),
            downsample=view.downsample,
            mpp=view.mpp,
            about=about | {"tissue": {"rule": RULE, "area mm^2": round(prediction.tissue_area, 6)}},
        )
        step = picture_step(view)
        channels = range(task.outputs - len(task.foreground), task.outputs)
        write_overlay(
            temporary[outputs.overlay],
            thumbnail(view),
            np.stack([shrink(maps.strips(channel, rows=step), step) for channel in channels]),
            drawn,
            task=task,
            step=step,
            mpp=view.mpp,
        )
    return Summary(prediction.tissue_area, found, specks, prediction.tiles, prediction.tiles_with_tissue)


def decisions(maps: DiskMap, task: Task) -> Iterator[np.ndarray]:
    """The label values from top to bottom, as arrays uint8 ``(rows, W)``; the first maps are the probabilities."""
    for strips in zip(*(maps.strips(channel) for channel in range(task.outputs)), strict=True):
        probabilities = torch.from_numpy(np.stack(strips))[None]  # (1, M, rows, W)
        yield task.decide(probabilities)[0, 0].numpy()
