"""Writing pyramidal tiled TIFFs with bounded memory, whatever their size.

OpenSlide, ASAP and QuPath open those of 8 bits: slides, masks and maps of decisions. OpenSlide reads no float32, so
that maps of probabilities are for ASAP, for QuPath (through Bio-Formats, which comes with it) and for tifffile.

The image comes as a stream of strips. While one level is compressed, its rows are averaged down into an unnamed
temporary file beside the output, from which the next level streams in turn; two such files exist at most.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import tifffile
from numpy.typing import DTypeLike, NDArray

from study.files import replacing, require_space

TILE = 512
"""Side of a tile in pixels, as in the slides of Camelyon16."""

SMALLEST = 512
"""Levels are added until both sides have at most so many pixels."""

JPEG_QUALITY = 85

_BUFFER = 2**25  # bytes of tiles that wait for compression; tifffile's own limit is half a gigabyte

Array = NDArray[np.generic]


def write_pyramid(
    path: Path | str,
    strips: Iterable[Array],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    mpp: float,
    compression: Literal["jpeg", "zlib"] = "zlib",
    reduce: Literal["mean", "nearest"] = "mean",
    tile: int = TILE,
) -> None:
    """Write a BigTIFF whose levels halve in scale, down to 512 pixels; level sizes are rounded up.

    A pixel of the next level is the mean of the (up to) four below it, integers rounded with halves up, or with
    "nearest" the upper left one of them. The file is all there or not there at all.

    Args:
        path: of the file; its folder is made.
        strips: of level 0 from top to bottom: arrays (rows, W) or (rows, W, 3), of any heights that add up to H.
        shape: (H, W), or (H, W, 3) for RGB, of level 0.
        dtype: of the strips.
        mpp: micrometres per pixel of level 0.
        compression: "jpeg" (quality 85, colours at half the scale) for uint8 RGB, or the lossless "zlib". zlib goes
            without a predictor: it would make probabilities 15 % smaller, but not every reader knows it for floats.
        reduce: "mean", or "nearest" for labels.
        tile: side of a tile in pixels, a multiple of 16.

    Raises:
        StudyError: if the folder cannot be written or the disk is full.
        ValueError: if the strips do not make up the shape.
    """
    dtype = np.dtype(dtype)
    shapes = _level_shapes(tuple(shape))
    with replacing(path) as temporary, ExitStack() as open_files:
        require_space(path, sum(_bytes(level, dtype) for level in shapes[1:3]))
        writer = open_files.enter_context(tifffile.TiffWriter(temporary, bigtiff=True))
        rows = _tile_rows(strips, shapes[0], dtype, tile)
        for level, level_shape in enumerate(shapes):
            following = shapes[level + 1 : level + 2]
            if following:  # unnamed: gone with the process, however it ends
                spill = open_files.enter_context(tempfile.TemporaryFile(dir=temporary.parent))
                rows = _spill_reduced(rows, spill, reduce)
            writer.write(
                _tiles(rows, tile),
                shape=level_shape,
                dtype=dtype,
                tile=(tile, tile),
                photometric="rgb" if len(level_shape) == 3 else "minisblack",
                compression=compression,
                compressionargs={"level": JPEG_QUALITY} if compression == "jpeg" else None,
                resolution=(1e4 / (mpp * 2**level),) * 2,  # pixels per centimetre
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),  # 1: a reduced version of another page
                metadata=None,
                buffersize=_BUFFER,
            )
            next(rows, None)  # tifffile stops at the last tile; a strip too many is noticed only here
            if following:
                rows = _read_back(spill, following[0], dtype, tile)


def _level_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    shapes = [shape]
    while max(shapes[-1][:2]) > SMALLEST:
        height, width, *channels = shapes[-1]
        shapes.append(((height + 1) // 2, (width + 1) // 2, *channels))
    return shapes


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _tile_rows(strips: Iterable[Array], shape: tuple[int, ...], dtype: np.dtype, tile: int) -> Iterator[Array]:
    """The strips cut anew into rows of tiles, (tile, W, ...), the last one lower; copies, as strips may be reused."""
    height, filled, done = shape[0], 0, 0
    row = np.empty((min(tile, height), *shape[1:]), dtype)
    for strip in strips:
        if strip.shape[1:] != shape[1:] or strip.dtype != dtype:
            raise ValueError(f"a strip of {strip.dtype} {strip.shape} for an image of {dtype} {shape}")
        taken = 0
        while taken < len(strip):
            if done + filled == height:
                raise ValueError(f"strips go on after the {height} rows of the image")
            count = min(len(strip) - taken, len(row) - filled)
            row[filled : filled + count] = strip[taken : taken + count]
            filled, taken = filled + count, taken + count
            if filled == len(row):
                yield row
                done, filled = done + filled, 0
                row = np.empty((min(tile, height - done), *shape[1:]), dtype)
    if done < height:
        raise ValueError(f"strips end after {done + filled} of the {height} rows of the image")


def _tiles(rows: Iterable[Array], tile: int) -> Iterator[Array]:
    """The tiles of all rows, padded to full size with the pixels at the border, which JPEG compresses best."""
    for row in rows:
        for left in range(0, row.shape[1], tile):
            part = row[:, left : left + tile]
            lacking = [(0, tile - part.shape[0]), (0, tile - part.shape[1])] + [(0, 0)] * (part.ndim - 2)
            yield np.pad(part, lacking, mode="edge") if np.any(lacking) else part


def _spill_reduced(rows: Iterable[Array], target: BinaryIO, reduce: str) -> Iterator[Array]:
    """Pass the rows on and append each of them, at half the scale, to the file."""
    for row in rows:
        target.write(np.ascontiguousarray(row[::2, ::2] if reduce == "nearest" else _halve(row)))
        yield row


def _halve(image: Array) -> Array:
    """Means over 2 x 2 pixels; at an odd border, over those that there are."""
    odd = [(0, image.shape[0] % 2), (0, image.shape[1] % 2)] + [(0, 0)] * (image.ndim - 2)
    padded = np.pad(image, odd, mode="edge") if np.any(odd) else image
    exact = np.uint32 if np.issubdtype(image.dtype, np.integer) else image.dtype
    columns = np.add(padded[:, ::2], padded[:, 1::2], dtype=exact)
    total = columns[::2] + columns[1::2]
    return ((total + 2) // 4 if exact is np.uint32 else total / 4).astype(image.dtype)


def _read_back(source: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, tile: int) -> Iterator[Array]:
    with source:
        source.seek(0)
        for top in range(0, shape[0], tile):
            row = np.empty((min(tile, shape[0] - top), *shape[1:]), dtype)
            source.readinto(row)
            yield row
