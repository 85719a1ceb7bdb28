"""Images and their labels in two folders, paired by name: how EBHI-SEG and NuInsSeg come."""

import io
import zipfile
from pathlib import Path

from PIL import Image

from study.errors import StudyError

File = Path | zipfile.Path
"""Of a folder, or of an archive that is laid out as one."""


def pairs_in(folder: File, image: str, label: str) -> list[tuple[File, File]]:
    """The (image, label) files of two folders in ``folder``, sorted; any format, matched by name without its ending.

    Hidden files and folders are left out. Folders that are not there are empty.

    Args:
        folder: of the two folders.
        image, label: their names.

    Raises:
        StudyError: if an image or a label stands alone or is there twice, or a link is broken.
    """
    return pairs_of(folder / image, folder / label)


def pairs_of(image_folder: File, label_folder: File) -> list[tuple[File, File]]:
    """As :func:`pairs_in`, of two folders anywhere."""
    images, labels = _files(image_folder), _files(label_folder)
    if alone := sorted(images.keys() ^ labels.keys()):
        file = images.get(alone[0]) or labels[alone[0]]
        missing = label_folder if alone[0] in images else image_folder
        raise StudyError(f"{file} has no {missing.name}; add it to {missing} or remove the file")
    return [(images[stem], labels[stem]) for stem in sorted(images)]


def read_pair(image_file: File, label_file: File) -> tuple[Image.Image, Image.Image]:
    """An image in RGB with its label in grey levels, 0 to 255.

    Raises:
        StudyError: naming the file that is damaged, or both if they differ in size.
    """
    image, label = _open(image_file, "RGB"), _open(label_file, "L")
    if image.size != label.size:
        raise StudyError(f"{image_file} is {_text(image)} but {label_file} is {_text(label)}; they must be equal")
    return image, label


def _files(folder: File) -> dict[str, File]:
    """The files of a folder by their names without the ending."""
    files: dict[str, File] = {}
    if not folder.is_dir():
        return files
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.is_dir() or file.name.startswith("."):
            continue
        if not file.is_file():
            raise StudyError(f"{file} is a broken link or no file; remove it")
        if file.stem in files:
            raise StudyError(f"{file} and {files[file.stem].name} are the same patch twice; remove one of them")
        files[file.stem] = file
    return files


def _open(file: File, mode: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise StudyError(f"{file} is damaged or not an image; download it again") from error


def _text(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
