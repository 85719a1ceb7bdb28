"""Maps as large as a slide, kept on disk rather than in memory: written by windows, read by strips."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

_STRIP = 2**24  # largest number of bytes in a strip (but at least one row)


class DiskMap(AbstractContextManager):
    """``(M, H, W)`` float32 in an unnamed temporary file, which disappears with the process.

    It is zero where nothing was written; such parts take no space on most file systems. Use it as a context manager.

    Args:
        folder: where the file is; it must exist.
        shape: (M, H, W).
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by close()
        self._file.truncate(int(np.prod(shape, dtype=np.int64)) * 4)

    def write(self, top: int, left: int, values: np.ndarray) -> None:
        """Write a window ``(M, h, w)``; parts beyond the bottom and the right of the map are left out."""
        count, height, width = self.shape
        values = values[:, : height - top, : width - left].astype(np.float32, copy=False)
        for number in range(count):
            for row, line in enumerate(values[number], start=top):
                self._file.seek(((number * height + row) * width + left) * 4)
                self._file.write(line.tobytes())

    def strips(self, number: int, rows: int | None = None) -> Iterator[np.ndarray]:
        """One map ``(H, W)`` from top to bottom, as arrays ``(rows, W)``, the last one lower."""
        _, height, width = self.shape
        rows = rows or max(1, min(512, _STRIP // (4 * width)))
        for top in range(0, height, rows):
            strip = np.empty((min(rows, height - top), width), np.float32)
            self._file.seek((number * height + top) * width * 4)
            self._file.readinto(strip)
            yield strip

    def close(self) -> None:
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()
