"""Outlines against a mask TIFF of the same slide."""

from dataclasses import dataclass

import numpy as np

from study.data.slides.masks.mask import HALF, blocks
from study.data.slides.masks.outlines import OutlineMask
from study.data.slides.masks.tiff import TiffMask
from study.data.slides.slide import View


@dataclass(frozen=True)
class Comparison:
    """Outlines against a mask TIFF, in pixels of a view.

    Attributes:
        outlines, tiff, both: pixels of tumour by the outlines, by the TIFF, and by both.
        deep: pixels that differ although the outlines' mask is the same all around them: more than the border is wrong.
        box: the smallest box that holds the deep ones, as (x0, y0, x1, y1) in level-0 pixels; None if there are none.
    """

    outlines: int
    tiff: int
    both: int
    deep: int
    box: tuple[int, int, int, int] | None

    @property
    def either(self) -> int:
        return self.outlines + self.tiff - self.both

    @property
    def dice(self) -> float:
        """1 where neither has tumour."""
        return 2 * self.both / (self.outlines + self.tiff) if self.either else 1.0

    @property
    def summary(self) -> str:
        """One line for people."""
        text = (
            f"Dice {self.dice:.4f}; tumour pixels: {self.both:,} in both, {self.outlines - self.both:,} in the "
            f"outlines only, {self.tiff - self.both:,} in the TIFF only; {self.deep:,} differ away from the border"
        )
        return f"{text}, within x {self.box[0]}-{self.box[2]}, y {self.box[1]}-{self.box[3]}" if self.box else text


def compare(outlines: OutlineMask, tiff: TiffMask, view: View) -> Comparison:
    """Compare the two masks of a view, block by block.

    Borders differ by up to a pixel for good reasons: ASAP, which made the bucket's TIFFs, judged level-0 pixels at
    their corners, and drew splines as polygons.

    Raises:
        StudyError: if the TIFF is damaged.
    """
    in_outlines = in_tiff = in_both = deep = 0
    boxes = []
    for x, y, w, h in blocks(view):
        around = outlines.tumour_samples(x - 1, y - 1, w + 2, h + 2) >= HALF
        a, b = around[1:-1, 1:-1], tiff.tumour_samples(x, y, w, h) >= HALF
        in_outlines, in_tiff, in_both = in_outlines + a.sum(), in_tiff + b.sum(), in_both + (a & b).sum()
        differ = a != b
        if differ.any():
            for dy in range(3):
                for dx in range(3):
                    differ &= around[dy : dy + h, dx : dx + w] == a
            rows, columns = np.nonzero(differ)
            if len(rows):
                deep += len(rows)
                boxes.append((x + columns.min(), y + rows.min(), x + columns.max() + 1, y + rows.max() + 1))
    box = None
    if boxes:
        low, high = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
        box = tuple(round(n * view.downsample) for n in (*low.tolist(), *high.tolist()))
    return Comparison(int(in_outlines), int(in_tiff), int(in_both), deep, box)
