"""The picture of a prediction: the slide, the classes over it, their outlines, a scale bar and a legend."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch
from PIL import Image

from study.data.slides.slide import View
from study.data.slides.tissue import SATURATION, VALUE
from study.files import replacing
from study.prediction.colours import colour_of
from study.prediction.contours import Region
from study.tasks.task import Task

LONGEST = 2048
"""Largest length of the picture's longer side, in pixels."""

OPACITY = 0.6
FAINTEST = 0.1
"""The opacity at a probability of 1; it grows from 0 at the faintest probability shown, while the tissue loses its own
colour. So the background is unchanged, and no colours are mixed in the foreground."""

VIRIDIS = matplotlib.colormaps["viridis"]

CAPTION = f"In tissue only: saturation > {SATURATION:g} and value > {VALUE:g} (HSV)"
"""Below the picture: where the network is believed at all."""

LINE = 1.4
"""The height of a line of the legend, in heights of its text."""

_DPI = 100  # any: everything is measured in pixels
_BLOCK = 2048  # side of the windows that are read, in pixels of the slide's level


def picture_step(view: View) -> int:
    """Pixels of the view for each pixel of the picture, along either axis."""
    return math.ceil(max(view.height, view.width) / LONGEST)


def thumbnail(view: View) -> np.ndarray:
    """The slide as uint8 RGB, one pixel for ``step`` x ``step`` (:func:`picture_step`) of the view, sizes rounded up.

    Raises:
        StudyError: if the slide is damaged.
    """
    step = picture_step(view)
    height, width = -(-view.height // step), -(-view.width // step)
    afar = view.slide.at(mpp=view.mpp * step)
    off = view.downsample * step / afar.downsample  # 1 unless a level of the file has nearly this scale
    image = Image.new("RGB", (math.ceil(width * off), math.ceil(height * off)))
    side = max(1, int(_BLOCK / afar.factor))
    for y in range(0, image.height, side):
        for x in range(0, image.width, side):
            block = afar.read(x, y, min(side, image.width - x), min(side, image.height - y))
            image.paste(Image.fromarray(block), (x, y))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=(0, 0, width * off, height * off)))


def shrink(strips: Iterable[np.ndarray], step: int) -> np.ndarray:
    """Means over ``step`` x ``step`` pixels of a map that comes in strips of ``step`` rows, (step, W)."""
    means = []
    for strip in strips:
        columns = np.arange(0, strip.shape[1], step)
        sums = np.add.reduceat(strip.sum(axis=0, dtype=np.float64), columns)
        means.append(sums / (len(strip) * np.diff([*columns, strip.shape[1]])))
    return np.stack(means)


def blend(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Colour an image ``(h, w, 3)`` by a probability ``(h, w)``; both images are uint8 RGB."""
    return _blend(image, probability, lambda row: VIRIDIS(probability[row], bytes=True)[:, :3])


def blend_classes(image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Colour an image by the most probable class but the background, as far as it is probable.

    Args:
        image: uint8 RGB ``(h, w, 3)``.
        probabilities: of these classes, ``(K, h, w)``.
    """
    colours = np.array([colour_of(label) for label in range(1, len(probabilities) + 1)])  # (K, 3)
    label = probabilities.argmax(axis=0)  # (h, w)
    return _blend(image, probabilities.max(axis=0), lambda row: colours[label[row]])


def _blend(image: np.ndarray, probability: np.ndarray, colour_of_row: Callable[[int], np.ndarray]) -> np.ndarray:
    """Row by row, to save memory; ``colour_of_row`` gives uint8 ``(w, 3)``."""
    blended = np.empty_like(image)
    for row, (tissue, p) in enumerate(zip(image, probability, strict=True)):  # (w, 3), (w,)
        weight = ((p - FAINTEST) / (1 - FAINTEST)).clip(0, 1)[:, None]  # (w, 1)
        grey = tissue @ np.array([[0.299], [0.587], [0.114]])  # (w, 1), luma of ITU-R BT.601
        pale = tissue + weight * (grey - tissue)
        blended[row] = np.rint(pale + OPACITY * weight * (colour_of_row(row) - pale)).clip(0, 255)
    return blended


def scale_bar(micrometres: float) -> tuple[float, str]:
    """The longest of 1, 2 or 5 times a power of ten that is at most ``micrometres``, and its text."""
    power = 10.0 ** math.floor(math.log10(micrometres))
    length = max(n * power for n in (1, 2, 5) if n * power <= micrometres)
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"


def write_overlay(
    path: Path | str,
    image: np.ndarray,
    probabilities: np.ndarray,
    found: Iterable[Region],
    *,
    task: Task,
    step: int,
    mpp: float,
) -> None:
    """Draw the picture as PNG.

    Args:
        path: of the file, which is written completely or not at all.
        image: of :func:`thumbnail`, ``(h, w, 3)``.
        probabilities: of :func:`shrink`, ``(K, h, w)``, of all classes but the background.
        found: what is outlined, in pixels of the view.
        task: names the classes; of one beside the background there is a colour bar, of several a legend.
        step: pixels of the view per pixel of the picture.
        mpp: micrometres per pixel of the view.

    Raises:
        StudyError: if the folder cannot be written or the disk is full.
    """
    classes, height, width = probabilities.shape
    unit = max(14.0, max(height, width) / 64)  # the height of the text, in pixels
    below = max(4.0, 2 + LINE * classes) + LINE  # in units; the last line is the caption
    page = Image.new("RGBA", (max(width, math.ceil(34 * unit)), height + math.ceil(below * unit)), "white")
    left = (page.width - width) // 2
    blended = blend(image, probabilities[0]) if classes == 1 else blend_classes(image, probabilities)
    page.paste(Image.fromarray(blended), (left, 0))
    with matplotlib.rc_context({"font.size": 0.9 * unit * 72 / _DPI, "axes.linewidth": unit / 24}):
        # all but the image itself, for which matplotlib would take half a gigabyte
        figure = Figure(figsize=(page.width / _DPI, page.height / _DPI), dpi=_DPI, facecolor="none")
        _draw_outlines(_axes(figure, left, 0, width, height), found, step, unit)
        length, text = scale_bar(0.25 * width * step * mpp)
        _draw_scale_bar(_axes(figure, unit, height + unit, length / (step * mpp), unit / 2), text)
        place = (page.width - 13 * unit, height + unit, 12 * unit)
        if classes == 1:
            _draw_colour_bar(_axes(figure, *place, unit / 2), task, unit)
        else:
            draw_legend(_axes(figure, *place, LINE * classes * unit), task)
        figure.text(unit / page.width, 0.5 * unit / page.height, CAPTION, va="bottom")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    page.alpha_composite(Image.fromarray(np.asarray(canvas.buffer_rgba())))
    with replacing(path) as temporary:
        page.convert("RGB").save(temporary, format="png")


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """An axes at a place in pixels from the upper left."""
    across, down = figure.get_size_inches() * _DPI
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _draw_outlines(axes: Axes, found: Iterable[Region], step: int, unit: float) -> None:
    box = axes.get_window_extent()
    axes.set(xlim=(0, box.width), ylim=(box.height, 0))  # pixels of the picture
    axes.axis("off")
    rings = [ring for region in found for ring in (region.outline.exterior, *region.outline.interiors)]
    lines = [np.asarray(ring.coords) / step for ring in rings]  # (points, 2)
    for line_width, colour in ((unit / 9, "white"), (unit / 20, "black")):
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=line_width), autolim=False)


def _draw_scale_bar(axes: Axes, text: str) -> None:
    axes.set(facecolor="black", xticks=[], yticks=[], xlabel=text)


def draw_legend(axes: Axes, task: Task) -> None:
    """A swatch of each class but the background, as it is on white where it is certain, with its name."""
    certain = np.eye(len(task.foreground))[:, None]  # (K, 1, K): a picture of K pixels, each of another class
    colours = blend_classes(np.full((1, len(certain), 3), 255, np.uint8), certain)[0] / 255  # (K, 3)
    swatches = [
        Swatch(facecolor=colour, edgecolor="black", linewidth=0.5, label=name)
        for colour, name in zip(colours, task.foreground.values(), strict=True)
    ]
    axes.axis("off")
    axes.legend(handles=swatches, loc="upper right", frameon=False, borderpad=0, borderaxespad=0)


def _draw_colour_bar(axes: Axes, task: Task, unit: float) -> None:
    (name,), threshold = task.foreground.values(), task.threshold
    white, ramp = np.full((1, 256, 3), 255, np.uint8), np.linspace(0, 1, 256)[None]  # (1, 256)
    axes.imshow(blend(white, ramp), aspect="auto", extent=(0, 1, 0, 1))
    ticks = [threshold, *(end for end in (0, 1) if abs(end - threshold) > 0.15)]
    axes.set(xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks], yticks=[])
    axes.axvline(threshold, color="black", linewidth=unit / 12)
    title = f"{name[:1].upper()}{name[1:]} probability"
    axes.annotate(title, (0, 0.5), (-unit * 0.6, 0), textcoords="offset pixels", ha="right", va="center")
