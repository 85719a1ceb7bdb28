"""Everything that ``predict`` leaves behind, side by side; the files appear together, at the end, or none of them."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.data.slides.pyramid import write_pyramid
from study.data.slides.slide import View
from study.files import replacing
from study.networks.unet import UNet
from study.prediction.contours import SPECK, regions, trace, write_geojson
from study.prediction.overlay import picture_step, shrink, thumbnail, write_overlay
from study.prediction.slide import SIDE, predict_view


@dataclass(frozen=True)
class Outputs:
    """The files of one prediction; ``mean`` and ``deviation`` are None unless they are asked for."""

    probability: Path
    overlay: Path
    contours: Path
    mean: Path | None = None
    deviation: Path | None = None

    @classmethod
    def of(cls, folder: Path, name: str, *, stability: bool) -> "Outputs":
        also = {kind: folder / f"{name}-{kind}.tif" for kind in ("mean", "deviation")} if stability else {}
        return cls(
            folder / f"{name}-probability.tif",
            folder / f"{name}-overlay.png",
            folder / f"{name}-contours.geojson",
            **also,
        )

    def paths(self) -> list[Path]:
        return [path for path in vars(self).values() if path is not None]


@dataclass(frozen=True)
class Summary:
    """Areas in mm²; ``regions`` is how many are in the GeoJSON, ``specks`` how many were too small for it."""

    tissue_area: float
    tumour_area: float
    regions: int
    specks: int
    tiles: int
    tiles_with_tissue: int


def predict_slide(
    network: UNet,
    view: View,
    outputs: Outputs,
    *,
    about: dict,
    threshold: float = 0.5,
    side: int = SIDE,
    batch_size: int = 1,
) -> Summary:
    """Predict a slide at one scale and write the maps, the overlay and the contours.

    Args:
        network: in eval mode, on the device to run on.
        about: where the prediction is from, for the GeoJSON.
        threshold: tumour is what has a larger probability.
        side, batch_size: of the tiles, see :func:`~study.prediction.slide.predict_view`.

    Raises:
        StudyError: if the slide is damaged, the tiles are too small, the folder cannot be written or the disk is full.
    """
    folder = outputs.probability.parent
    stability = outputs.mean is not None
    with ExitStack() as files:
        temporary = {path: files.enter_context(replacing(path)) for path in outputs.paths()}
        prediction = predict_view(network, view, folder, side=side, batch_size=batch_size, stability=stability)
        maps = files.enter_context(prediction.maps)
        for number, path in enumerate(filter(None, (outputs.probability, outputs.mean, outputs.deviation))):
            write_pyramid(temporary[path], maps.strips(number), maps.shape[1:], np.float32, mpp=view.mpp)
        outlines, specks = trace(maps.strips(0), threshold, speck=SPECK / view.mpp**2)
        found = regions(outlines, mpp=view.mpp)
        write_geojson(temporary[outputs.contours], found, downsample=view.downsample, mpp=view.mpp, about=about)
        tumour = sum(int((strip > threshold).sum()) for strip in maps.strips(0))
        step = picture_step(view)
        write_overlay(
            temporary[outputs.overlay],
            thumbnail(view),
            shrink(maps.strips(0, rows=step), step),
            found,
            step=step,
            mpp=view.mpp,
            threshold=threshold,
        )
    return Summary(
        tissue_area=prediction.tissue_area,
        tumour_area=tumour * view.mpp**2 / 1e6,
        regions=len(found),
        specks=specks + len(outlines) - len(found),
        tiles=prediction.tiles,
        tiles_with_tissue=prediction.tiles_with_tissue,
    )
