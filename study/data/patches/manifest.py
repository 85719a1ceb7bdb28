"""The folder that an extraction from slides fills: ``slides/<slide>.h5``, ``manifest.csv`` and ``recipe.json``.

The manifest has a row per patch, in the order of the slides and of the patches in their files. With the slides, anyone
can make the identical patches from it. Its columns:

    slide, split         the slide's name; "train", "validation" or "test"
    x, y                 of the patch's upper left corner, in pixels of level 0
    level, mpp           the level of the slide that was read (and resampled, if it has another scale), and
                         micrometres per pixel of the patch
    patch_size           side of the patch in pixels
    tumour, ignored      shares of the patch's pixels
    hash                 of image and mask, 16 hexadecimal digits
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from xxhash import xxh3_64

from study.errors import StudyError
from study.files import replacing

COLUMNS = {
    "slide": str,
    "split": str,
    "x": int,
    "y": int,
    "level": int,
    "mpp": float,
    "patch_size": int,
    "tumour": float,
    "ignored": float,
    "hash": str,
}


def is_extraction(folder: Path) -> bool:
    """Whether an extraction from slides was begun in this folder."""
    return recipe_path(folder).is_file()


def recipe_path(folder: Path) -> Path:
    return folder / "recipe.json"


def case_of(slide: str) -> str:
    """The patient of a slide: ``patient_017`` of ``patient_017_node_2``, as in Camelyon17; or else the slide itself."""
    match = re.match(r"patient_\d+(?=_|$)", slide)
    return match[0] if match else slide


def slide_file(folder: Path, slide: str) -> Path:
    """Where the patches of a slide are."""
    return folder / "slides" / f"{slide}.h5"


def manifest_path(folder: Path) -> Path:
    return folder / "manifest.csv"


def write_manifest(folder: Path, rows: pd.DataFrame) -> None:
    """Write the manifest of a folder; see :data:`COLUMNS`."""
    with replacing(manifest_path(folder)) as temporary:
        rows[list(COLUMNS)].to_csv(temporary, index=False, float_format="%.6g")


def read_manifest(path: Path) -> pd.DataFrame:
    """A manifest, from its file or its folder; columns :data:`COLUMNS`.

    Raises:
        StudyError: if it is missing, empty or damaged.
    """
    file = manifest_path(path) if path.is_dir() else path
    if not file.is_file():
        raise StudyError(f"no manifest at {file}; the extraction is not finished: run it again, it goes on")
    try:
        rows = pd.read_csv(file, dtype=COLUMNS, keep_default_na=False)
        if missing := set(COLUMNS) - set(rows.columns):
            raise ValueError(f"no column {min(missing)}")
        if rows.empty:
            raise ValueError("no rows")
    except (OSError, ValueError) as error:
        raise StudyError(f"{file} is damaged or no manifest ({str(error).splitlines()[0]}); make it again") from error
    return rows


def write_recipe(folder: Path, recipe: dict) -> None:
    """Note what a folder's patches are made from, before the first is made."""
    with replacing(recipe_path(folder)) as temporary:
        temporary.write_text(json.dumps(recipe, indent=1, sort_keys=True) + "\n")


def read_recipe(folder: Path) -> dict:
    """What a folder's patches are made from; it holds at least ``source`` and ``patch_size``.

    Raises:
        StudyError: if it cannot be read.
    """
    file = recipe_path(folder)
    try:
        recipe = json.loads(file.read_text())
        recipe["source"], recipe["patch_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{file} is damaged; delete the folder and make it again") from error
    return recipe


def patch_hash(image, mask) -> str:
    """Of one patch (XXH3), from the bytes of its uint8 image ``(H, W, 3)`` and mask ``(H, W)``."""
    digest = xxh3_64(image)
    digest.update(mask)
    return digest.hexdigest()


def patches_fingerprint(labels: Iterable[str]) -> str:
    """Of many patches, from their hashes or other texts in order."""
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()[:16]
