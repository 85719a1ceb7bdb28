"""Reading an image or a mask exactly as its pixels are, and refusing what would have to be guessed.

An image that a viewer shows turned, by its EXIF orientation, is turned here too, with its mask, if the mask says the
same. What has more than eight bits, transparent pixels or colours of a printer would have to be changed to become an
image of a store, and nobody here knows how: it is refused.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from study.errors import StudyError
from study.tasks.labels import IGNORE

VALUES = ("0/1", "0/255", "palette", "labels")
"""What the values of masks may be stated to be: background and foreground, as either of two pairs; the numbers of the
classes, as places in the file's palette or as grey levels, and 255 where nobody labelled."""

_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_MASK_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")


def size_of(file: Path) -> tuple[int, int]:
    """Width and height in the file, before it is turned.

    Raises:
        StudyError: if it is damaged or no image.
    """
    with _open(file) as image:
        return image.size


def read_both(image_file: Path, mask_file: Path, values: str, classes: int) -> tuple[NDArray, NDArray]:
    """An image, uint8 ``(H, W, 3)``, and its mask, uint8 ``(H, W)`` of the numbers of classes and ``IGNORE``.

    Args:
        image_file, mask_file: in any format that Pillow reads.
        values: one of :data:`VALUES`, what those of the mask are.
        classes: how many there are, with the background.

    Raises:
        StudyError: naming the file that is damaged, is of no kind that can be read exactly, or has a value that was
            not stated; or both files, if they differ in size or orientation.
    """
    image, turned = _load(image_file, _IMAGE_MODES)
    mask, mask_turned = _load(mask_file, _MASK_MODES)
    if turned != mask_turned:
        raise StudyError(
            f"{image_file} has the EXIF orientation {turned} but {mask_file} has {mask_turned} (1: as stored); save "
            "both as they are seen, without EXIF"
        )
    if image.size != mask.size:
        sizes = (f"{each.width} x {each.height}" for each in (image, mask))
        raise StudyError("{} is {} but {} is {}; they must be equal".format(image_file, next(sizes), mask_file, *sizes))
    return np.asarray(_opaque(image, image_file).convert("RGB")), _labels(mask, mask_file, values, classes)


def _open(file: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large image is no attack here
            return Image.open(file)
    except Image.DecompressionBombError as error:
        raise StudyError(
            f"{file} is too large for an image ({error}); cut it, or read it as a slide: `python -m study slides`"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise StudyError(f"{file} is damaged or not an image; get it again, or remove it") from error


def _load(file: Path, modes: tuple[str, ...]) -> tuple[Image.Image, int]:
    """The image as it is seen, and the EXIF orientation that it had."""
    with _open(file) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise StudyError(f"{file} holds {image.n_frames} images; save each as a file of its own")
        deep = ";16" in repr(image.tile)  # Pillow's raw mode; of 16 bits of RGB it would read 8 without a word
        if image.mode not in modes or (deep and not image.mode.startswith("I")):
            bits = "16 bits per channel" if deep else f"pixels of the kind {image.mode}"
            raise StudyError(f"{file} has {bits}; save it with 8 bits, in RGB or grey")
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1)
            if turned != 1 and image.format == "TIFF":  # of which Pillow turns some kinds and not others
                raise StudyError(f"{file} is a TIFF with the orientation {turned}; save it as it is seen")
            image.load()
            return ImageOps.exif_transpose(image), turned
        except (OSError, SyntaxError) as error:
            raise StudyError(f"{file} is damaged; get it again, or remove it") from error


def _opaque(image: Image.Image, file: Path) -> Image.Image:
    """The image without its transparency, of which there must be none."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            raise StudyError(f"{file} has transparent pixels, whose colour is unknown; save it without transparency")
        image = image.convert("RGB")
    return image


def _labels(mask: Image.Image, file: Path, values: str, classes: int) -> NDArray[np.uint8]:
    if (mask.mode == "P") != (values == "palette"):
        has = "a palette" if mask.mode == "P" else "no palette"
        remedy = "palette" if mask.mode == "P" else "0/1, 0/255 or labels"
        raise StudyError(f"{file} has {has}, but {values} was stated; give --values {remedy}")
    if mask.mode == "1":
        pixels = np.asarray(mask).astype(np.uint8) * (255 if values == "0/255" else 1)
    else:
        pixels = np.asarray(mask if mask.mode in ("L", "P", "I;16", "I;16B") else _opaque(mask, file))
    if pixels.ndim == 3:  # (H, W, channels)
        if (pixels != pixels[..., :1]).any():
            raise StudyError(f"{file} is in colours; save the numbers of the classes, in grey or with a palette")
        pixels = pixels[..., 0]
    number_of = {"0/1": {0: 0, 1: 1}, "0/255": {0: 0, 255: 1}}.get(
        values, {**{n: n for n in range(classes)}, IGNORE: IGNORE}
    )
    if odd := set(np.unique(pixels).tolist()) - number_of.keys():
        known = ", ".join(map(str, number_of))
        lossy = " (JPEG changes the values of a mask)" if file.suffix.lower() in (".jpg", ".jpeg") else ""
        raise StudyError(
            f"{file} has the value {min(odd)}, but {values} was stated, so {known} may be in it{lossy}; give other "
            "--values or --classes, or correct the mask"
        )
    table = np.zeros(256, np.uint8)
    table[list(number_of)] = list(number_of.values())
    return table[pixels]
