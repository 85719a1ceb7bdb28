"""Where a slide has tissue, by the paper's rule: saturation above 0.07 and value above 0.1, after a blur.

The rule is applied to the slide seen from afar, in cells of some pixels of a view: the colour of each cell is
turned into hue, saturation and value, and saturation and value are blurred. A patch has tissue if one of its cells
has. The rule keeps pale and fatty tissue that Otsu's threshold loses (normal_027 and normal_045 of Camelyon16), and
drops what is black: areas that were not scanned, and black ink.
"""

import numpy as np
from PIL import Image, ImageFilter

from study.data.slides.slide import View

SATURATION = 0.07
VALUE = 0.1

CELL = 16
"""Side, in pixels of a view, of the cells on which tissue and tumour are looked up: some 15 micrometres at 10x."""

BLUR = 1.0
"""Standard deviation of the blur, in cells."""

RULE = (
    f"saturation above {SATURATION:g} and value above {VALUE:g} (HSV), in cells of {CELL} pixels, blurred by one cell"
)
"""The rule for people, as outputs state it."""

_BLOCK = 2048
"""Side of the windows that are read, in pixels of the slide's level."""


def tissue_map(view: View, cell: int) -> np.ndarray:
    """Which cells of ``cell`` x ``cell`` pixels of a view are tissue.

    Returns:
        bool ``(ceil(height / cell), ceil(width / cell))``.

    Raises:
        StudyError: if the slide is damaged.
    """
    afar = view.slide.at(mpp=view.mpp * cell)
    tissue = np.ones((afar.height, afar.width), bool)
    for channel, threshold in zip(_saturation_and_value(afar), (SATURATION, VALUE), strict=True):
        tissue &= np.asarray(channel.filter(ImageFilter.GaussianBlur(BLUR))) > 255 * threshold
    # a level of the file may be a little off the scale that was asked for: find each cell's centre in it
    rows, columns = (
        np.minimum(((np.arange(-(-n // cell)) + 0.5) * cell * view.downsample / afar.downsample).astype(int), m - 1)
        for n, m in [(view.height, afar.height), (view.width, afar.width)]
    )
    return tissue[np.ix_(rows, columns)]


def _saturation_and_value(view: View) -> list[Image.Image]:
    """Of the HSV colours of a whole view, from 0 to 255, read in blocks."""
    channels = [Image.new("L", (view.width, view.height)) for _ in range(2)]
    side = max(1, int(_BLOCK / view.factor))
    for y in range(0, view.height, side):
        for x in range(0, view.width, side):
            block = Image.fromarray(view.read(x, y, min(side, view.width - x), min(side, view.height - y)))
            for channel, band in zip(channels, block.convert("HSV").split()[1:], strict=True):
                channel.paste(band, (x, y))
    return channels
