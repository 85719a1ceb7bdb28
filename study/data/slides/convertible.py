"""Images that OpenSlide cannot read although nothing is wrong with them, and how to make slides of them."""

import shlex
from pathlib import Path

import numpy as np
import tifffile

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Formats without tiles, by the ending of the name."""

_BEGINS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}


def advice(path: Path) -> str:
    """What an image is and how to make a slide of it, to follow its name in a message; empty if that is not known."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
        picture = next((kind for mark, kind in _BEGINS.items() if begin.startswith(mark)), None)
        if picture:
            return _to_tiles(path, picture)
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            if not page.is_tiled:
                return _to_tiles(path, "TIFF in strips")
            if page.dtype != np.uint8:
                return f"is a TIFF of {page.dtype} numbers, and slides have 8 bits; export it with 8 bits per channel"
    except Exception:  # damaged tags make tifffile stumble in every way; a damaged file is not one to convert
        return ""
    return ""


def _to_tiles(path: Path, kind: str) -> str:
    target = f"{path.stem}-tiles.tif" if path.suffix.lower() in (".tif", ".tiff") else f"{path.stem}.tif"
    files = " ".join(shlex.quote(str(name)) for name in (path, path.with_name(target)))
    return (
        f"is a {kind}, and slides are read in tiles; make them with `vips tiffsave {files} --tile --pyramid "
        "--compression jpeg` (libvips.org), use that file instead, and state its scale with --slide-mpp"
    )
