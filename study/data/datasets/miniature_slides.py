"""A miniature Camelyon16: slides, outlines and masks in the layout and with the quirks of the real data set.

Drawn, not scanned: see :mod:`~study.data.datasets.tissue_drawing` for what is realistic about it and what is not. No
score on it says anything about real tissue. The folder is laid out as Camelyon16 is: ``images/normal_001.tif``,
``images/tumor_001.tif``, ``annotations/tumor_001.xml`` and ``masks/tumor_001_mask.tif`` and so on. A slide is some 1700
x 1700 pixels of 0.5 µm, not 100,000 x 200,000 of 0.25 µm, and has its 10x at level 1, not 2.

As in the original, groups have three schemes of names, there is an outline of two points and a spline, and a slide of
which only some metastases are annotated. The outlines follow the drawn metastases to a pixel of 10x: no pathologist
does that.
"""

import zlib
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize, shapes
from tqdm import tqdm

from study.data.datasets.miniature import MARKER, SOURCE
from study.data.datasets.tissue_drawing import draw_slide
from study.data.slides.pyramid import write_pyramid
from study.errors import StudyError
from study.files import replacing

MPP = 0.5
"""Micrometres per pixel of level 0."""

NOTICE = "drawn by a program; no score on these slides says anything about real tissue"

VERSION = 1
"""Of the drawings; raised with every change of them."""

PARTIAL = ("tumor_010",)
"""Slides of which only the largest metastasis is annotated. tumor_010 is one of those in Camelyon16 too, so that the
table of exclusions holds for both; the other slides have names that it does not have."""

SENSOR_NOISE = 1.5  # standard deviation in grey levels, at level 0
SIMPLIFY = 0.8  # pixels of 10x by which an outline may leave the border of the pixels
SPLINE_STEP = 3.0  # pixels of 10x between the points of a spline


_OLD, _NEW = ("_0", "_2"), ("metastasis", "negative")  # the other names of groups in Camelyon16


class Plan(NamedTuple):
    """What is on a slide.

    Attributes:
        width, height: of level 0 in pixels; multiples of 4, so that all levels have exactly their scale.
        groups: the names of the groups of tumour and exclusion outlines.
        outline: the ASAP type of the outlines.
        two_point: whether an outline of two points, without area, is in the file too.

    The rest is as in :func:`~study.data.datasets.tissue_drawing.draw_slide`.
    """

    width: int
    height: int
    metastases: int = 0
    ink: str | None = None
    fold: bool = False
    out_of_focus: bool = False
    groups: tuple[str, str] = ("Tumor", "Exclusion")
    outline: str = "Polygon"
    two_point: bool = False


PLANS = {
    "normal_001": Plan(1704, 1812, ink="blue"),
    "normal_002": Plan(1636, 1980),
    "normal_003": Plan(1860, 1580, fold=True),
    "normal_004": Plan(1708, 1708, out_of_focus=True),
    "normal_005": Plan(1916, 1644, ink="green"),
    "normal_006": Plan(1588, 1732),
    "normal_007": Plan(1764, 1900, ink="black", fold=True),
    "normal_008": Plan(1692, 1652, out_of_focus=True),
    "normal_009": Plan(1820, 1748),
    "normal_010": Plan(1660, 1876, ink="blue"),
    "tumor_001": Plan(1844, 1732, metastases=3),
    "tumor_002": Plan(1724, 1868, metastases=2, ink="green", two_point=True),
    "tumor_003": Plan(1772, 1692, metastases=3, outline="Spline"),
    "tumor_004": Plan(1900, 1764, metastases=3),
    "tumor_005": Plan(1652, 1796, metastases=2, groups=_OLD),
    "tumor_006": Plan(1788, 1620, metastases=3, fold=True),
    "tumor_007": Plan(1676, 1924, metastases=1, ink="blue"),
    "tumor_008": Plan(1868, 1700, metastases=4, out_of_focus=True, groups=_NEW),
    "tumor_009": Plan(1716, 1780, metastases=2),
    "tumor_010": Plan(1604, 1836, metastases=4, ink="black", groups=_OLD),
    "tumor_011": Plan(1892, 1668, metastases=2),
    "tumor_012": Plan(1740, 1756, metastases=3, out_of_focus=True),
    "tumor_013": Plan(1628, 1852, metastases=2),
    "tumor_014": Plan(1812, 1684, metastases=4, groups=_OLD),
    "tumor_016": Plan(1684, 1716, metastases=1),
    "tumor_017": Plan(1836, 1772, metastases=3),
    "tumor_019": Plan(1780, 1660, metastases=4),
    "tumor_021": Plan(1756, 1804, metastases=3, ink="blue", fold=True),
    "tumor_022": Plan(1700, 1892, metastases=2, ink="green", out_of_focus=True),
    "tumor_023": Plan(1668, 1820, metastases=3, groups=_OLD),
}
# and as many without quirks, so that a tenth of them, the test slides, are not too few
_MORE_NORMAL = range(11, 21)
_MORE_TUMOR = (24, 26, 27, 28, 30, 31, 32, 35, 36, 37, 38, 39, 40, 41, 42, 43, 45, 47, 48, 49)


def _plain(n: int, metastases: int) -> Plan:
    return Plan(1580 + 4 * (37 * n % 90), 1580 + 4 * (53 * n % 90), metastases)


PLANS |= {f"normal_{n:03}": _plain(n, 0) for n in _MORE_NORMAL}
PLANS |= {f"tumor_{n:03}": _plain(n, 1 + n % 4) for n in _MORE_TUMOR}
"""The slides by name."""


def make_miniature(folder: Path | str, *, seed: int = 0, progress: bool = False) -> None:
    """Draw the whole data set; the folder is there, complete, or not at all.

    Args:
        folder: is made; one that exists has to be empty.
        seed: non-negative; a slide depends on it and on its own name only.
        progress: show a bar, if there is a terminal.

    Raises:
        StudyError: if the folder is not empty or cannot be written, the disk is full, or the seed is negative.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(f"{folder} is there already; remove it or choose another folder")
    with replacing(folder) as temporary:
        for name in tqdm(PLANS, "drawing slides", unit="slide", leave=False, disable=None if progress else True):
            make_slide(temporary, name, seed=seed)
        (temporary / MARKER).write_text(f"{SOURCE}, version {VERSION}, seed {seed}: {NOTICE}\n")


def make_slide(folder: Path, name: str, *, seed: int = 0) -> NDArray[np.uint8]:
    """Draw one slide of :data:`PLANS` into the folder, with its annotation and mask if it has metastases.

    Returns:
        Where metastases were drawn at 10x, annotated or not: uint8 (H / 2, W / 2), n on the n-th.

    Raises:
        StudyError: see :func:`make_miniature`.
    """
    if seed < 0:
        raise StudyError(f"seed is {seed}; pass at least 0")
    plan = PLANS[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawing = draw_slide(
        rng,
        (plan.height // 2, plan.width // 2),
        metastases=plan.metastases,
        ink=plan.ink,
        fold=plan.fold,
        out_of_focus=plan.out_of_focus,
    )
    image = _scan(rng, drawing.image)
    path = folder / "images" / f"{name}.tif"
    write_pyramid(path, [image], image.shape, image.dtype, mpp=MPP, compression="jpeg")
    if plan.metastases:
        annotated = drawing.metastases == 1 if name in PARTIAL else drawing.metastases > 0
        outlines = [shapely.geometry.shape(outline) for outline, _ in shapes(annotated.astype(np.uint8), annotated)]
        _write_annotation(folder / "annotations" / f"{name}.xml", outlines, plan)
        mask = annotated + 2 * _holes(outlines, annotated.shape)
        mask = mask.repeat(2, axis=0).repeat(2, axis=1)  # from 10x to level 0
        path = folder / "masks" / f"{name}_mask.tif"
        write_pyramid(path, [mask], mask.shape, mask.dtype, mpp=MPP, reduce="nearest")
    return drawing.metastases


def _scan(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Level 0: 10x enlarged to 20x, with the noise of a sensor."""
    height, width, _ = image.shape
    enlarged = np.asarray(Image.fromarray(image).resize((2 * width, 2 * height), Image.Resampling.BICUBIC))
    noise = rng.standard_normal(enlarged.shape, np.float32) * np.float32(SENSOR_NOISE)
    return np.clip(np.round(enlarged + noise), 0, 255).astype(np.uint8)


def _holes(outlines: list[shapely.Polygon], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """1 in the holes of the outlines, (H, W); both in pixels of 10x."""
    holes = [shapely.Polygon(ring) for outline in outlines for ring in outline.interiors]
    return rasterize(holes, shape, dtype=np.uint8) if holes else np.zeros(shape, np.uint8)


def _write_annotation(path: Path, outlines: list[shapely.Polygon], plan: Plan) -> None:
    """Write outlines, in pixels of 10x, as ASAP does, in those of level 0; holes are outlines too."""
    rings = [(plan.groups[0], outline.exterior) for outline in outlines]
    rings += [(plan.groups[1], ring) for outline in outlines for ring in outline.interiors]
    points = [(group, _points(ring, plan.outline)) for group, ring in rings]
    if plan.two_point:
        points.append((plan.groups[0], points[0][1][:2]))
    root = ElementTree.Element("ASAP_Annotations")
    annotations = ElementTree.SubElement(root, "Annotations")
    for n, (group, corners) in enumerate(points):
        one = ElementTree.SubElement(
            annotations,
            "Annotation",
            {"Name": f"Annotation {n}", "Type": plan.outline, "PartOfGroup": group, "Color": "#F4FA58"},
        )
        coordinates = ElementTree.SubElement(one, "Coordinates")
        for order, (x, y) in enumerate(2 * corners):  # 10x is level 1
            ElementTree.SubElement(coordinates, "Coordinate", {"Order": str(order), "X": f"{x:g}", "Y": f"{y:g}"})
    groups = ElementTree.SubElement(root, "AnnotationGroups")
    for group in dict.fromkeys(group for group, _ in points):
        one = ElementTree.SubElement(groups, "Group", {"Name": group, "PartOfGroup": "None", "Color": "#00ff00"})
        ElementTree.SubElement(one, "Attributes")
    ElementTree.indent(root, "\t")
    with replacing(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _points(ring: shapely.LinearRing, kind: str) -> NDArray[np.float64]:
    """The corners of an outline, (N, 2), the first not repeated at the end."""
    simple = shapely.Polygon(ring).simplify(SIMPLIFY).exterior
    if kind == "Spline":  # near points, so that the curve through them does not swing out
        simple = simple.segmentize(SPLINE_STEP)
    return shapely.get_coordinates(simple)[:-1]
