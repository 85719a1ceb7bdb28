"""Whole slides through OpenSlide, read at the scale that is asked for, whatever levels the file has.

A slide is opened once per process, for as long as a ``with`` block, and read through views: a :class:`View` is the
slide at one scale, with pixels of its own. Where no level of the file has that scale, the next finer level is
resampled, in such a way that a pixel's value does not depend on the window in which it was read.
"""

import math
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from study.data.slides.convertible import advice
from study.errors import StudyError

SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".czi")
"""Of the files that are taken for slides."""

POWERS = (2.5, 5, 10, 20, 40, 80)
"""The magnifications of microscopes: a slide that only says its micrometres per pixel is of the nearest of these."""

SAME_SCALE = 0.01
"""A level is taken as it is if its scale is within this share of the one that is asked for."""

_KERNEL = 3  # half-width of Pillow's Lanczos filter, in pixels of the coarser grid

_FRACTION = 1024
"""Levels are resampled by multiples of 1 / 1024. Pillow takes windows in float32, which holds such numbers exactly up
to 2**14 pixels, so that a pixel has the same value in every window; the scale is met to within 0.05 %."""


class Slide(AbstractContextManager):
    """An open slide; use it as a context manager.

    Attributes:
        path, name: the file, and its name without the ending.
        width, height: of level 0, in pixels.
        mpp: micrometres per pixel of level 0.
        magnification: of the objective: what the file says, or the power nearest to ``10 / mpp``.
        stated: the micrometres per pixel that were stated by the caller; None if they were not.
        notice: what is to be told the user: that the file says another scale than the caller. Mostly empty.

    Args:
        path: any file that OpenSlide reads.
        mpp: micrometres per pixel of level 0, for slides that do not say it or not rightly: image editors write 72
            dots per inch, which is 352.8 micrometres per pixel. It counts more than what the file says.

    Raises:
        StudyError: if the file is missing, damaged or no slide, or if neither it nor ``mpp`` says its scale.
    """

    def __init__(self, path: Path | str, *, mpp: float | None = None) -> None:
        self.path = Path(path)
        self.name = self.path.stem
        if not self.path.is_file():
            raise StudyError(f"no slide at {path}; check the path")
        with self._errors():
            self._slide = openslide.OpenSlide(self.path)
        try:
            self.width, self.height = self._slide.dimensions
            self.stated = mpp
            self.mpp, self.magnification, self.notice = self._scale(mpp)
        except BaseException:
            self.close()
            raise

    def at(self, *, magnification: float | None = None, mpp: float | None = None) -> "View":
        """The slide at one scale, given as either of the two.

        Raises:
            StudyError: if the scale is not positive or finer than the slide's own.
        """
        if (magnification is None) == (mpp is None):
            raise ValueError("give magnification or mpp")
        wanted = magnification if mpp is None else mpp
        if not 0 < wanted < math.inf:
            raise StudyError(f"a scale of {wanted} for {self.path}; give a positive number")
        downsample = self.magnification / magnification if mpp is None else mpp / self.mpp
        if downsample < 1 - SAME_SCALE:
            asked = f"{magnification:g}x" if mpp is None else f"{mpp:g} µm per pixel"
            raise StudyError(
                f"{self.path} has {self.magnification:g}x, {self.mpp:.4g} µm per pixel, coarser than {asked}; ask for "
                "no more than it has, or state its scale with --slide-mpp if the file has it wrong"
            )
        return View(self, downsample)

    def close(self) -> None:
        self._slide.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scale(self, stated: float | None) -> tuple[float, float, str]:
        """Micrometres per pixel, magnification, and the notice."""
        said, power = (
            self._positive(key) for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_OBJECTIVE_POWER)
        )
        said = said or (10 / power if power else None)
        mpp = said if stated is None else stated
        if mpp is None:
            raise StudyError(
                f"{self.path} does not say its micrometres per pixel; state them with --slide-mpp, for all slides of "
                "the command"
            )
        notice = ""
        if said is not None and abs(said / mpp - 1) > SAME_SCALE:
            notice = f"{self.path} says {said:.4g} µm per pixel; it is taken for {mpp:g}, as --slide-mpp states"
            power = None  # what the file says of its scale is wrong
        return mpp, power or min(POWERS, key=lambda p: abs(math.log(10 / p / mpp))), notice

    def _positive(self, key: str) -> float | None:
        try:
            value = float(self._slide.properties[key])
        except (KeyError, ValueError):
            return None
        return value if 0 < value < math.inf else None

    @contextmanager
    def _errors(self):
        try:
            yield
        except (openslide.OpenSlideError, OSError) as error:
            if what := advice(self.path):
                raise StudyError(f"{self.path} {what}") from error
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty or of no known format"
            raise StudyError(f"{self.path} is damaged or not a slide ({reason}); get it again") from error


class View:
    """A slide at one scale.

    A pixel has the same value in every window that is read, if the level is a whole number of times smaller than level
    0, as all of Camelyon16's are. Elsewhere (4.0001 times) OpenSlide shifts a window by up to half a pixel of level 0.

    Attributes:
        slide: the open slide.
        width, height: in pixels of this scale.
        downsample: level-0 pixels per pixel of this scale.
        mpp: micrometres per pixel of this scale.
        level: the level of the file that is read.
        resampled: whether that level has another scale than this.
        factor: pixels of that level per pixel of this view, 1 where nothing is resampled.
    """

    def __init__(self, slide: Slide, downsample: float) -> None:
        self.slide = slide
        levels = slide._slide.level_downsamples
        nearest = min(range(len(levels)), key=lambda n: abs(math.log(levels[n] / downsample)))
        self.resampled = abs(levels[nearest] / downsample - 1) > SAME_SCALE
        self.level = max((n for n, d in enumerate(levels) if d <= downsample), default=0) if self.resampled else nearest
        self._level_downsample = levels[self.level]
        self.factor = round(downsample / self._level_downsample * _FRACTION) / _FRACTION if self.resampled else 1.0
        self.downsample = self._level_downsample * self.factor
        self.mpp = slide.mpp * self.downsample
        if self.resampled:
            self.width, self.height = (max(1, round(n / self.downsample)) for n in (slide.width, slide.height))
        else:
            self.width, self.height = slide._slide.level_dimensions[self.level]

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A window as uint8 RGB ``(height, width, 3)``, white where the slide has nothing and beyond its borders.

        Args:
            x, y: of the window's upper left corner, in pixels of this view.
            width, height: in pixels of this view.

        Raises:
            StudyError: if the file is damaged there.
        """
        if not self.resampled:
            return np.asarray(self._read_level(x, y, width, height))
        factor = self.factor
        left, top = x * factor, y * factor
        margin = math.ceil(_KERNEL * factor)
        x0, y0 = math.floor(left) - margin, math.floor(top) - margin
        x1, y1 = math.ceil(left + width * factor) + margin, math.ceil(top + height * factor) + margin
        image = self._read_level(x0, y0, x1 - x0, y1 - y0)
        box = (left - x0, top - y0, left - x0 + width * factor, top - y0 + height * factor)
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))

    def _read_level(self, x: int, y: int, width: int, height: int) -> Image.Image:
        """A window of the level itself, in its own pixels."""
        corner = (round(x * self._level_downsample), round(y * self._level_downsample))
        with self.slide._errors():
            image = self.slide._slide.read_region(corner, self.level, (width, height))
        if np.asarray(image).view("<u4").min() >> 24 == 255:  # the least alpha; four times as fast as Pillow's
            return image.convert("RGB")
        white = Image.new("RGBA", image.size, "white")  # OpenSlide leaves transparent what was not scanned
        return Image.alpha_composite(white, image).convert("RGB")
