"""The folder that an extraction from slides fills: ``slides/<slide>.h5``, ``manifest.csv`` and ``recipe.json``.

The manifest has a row per patch, in the order of the slides and of the patches in their files. With the slides, anyone
can make the identical patches from it. :data:`study.data.patches.schema.COLUMNS` are its columns.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from study.data.patches.schema import COLUMNS, RECIPE_KEYS, SPLITS
from study.errors import StudyError
from study.files import replacing

_LARGEST = 1e7  # pixels; no slide has so many on a side


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
    """Write the manifest of a folder; see :data:`~study.data.patches.schema.COLUMNS`."""
    with replacing(manifest_path(folder)) as temporary:
        rows[list(COLUMNS)].to_csv(temporary, index=False, float_format="%.6g")


def read_manifest(path: Path) -> pd.DataFrame:
    """A manifest, from its file or its folder; columns :data:`~study.data.patches.schema.COLUMNS`.

    Raises:
        StudyError: if it is missing, empty or damaged, or has a number that no patch can have.
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
        for column, possible in _POSSIBLE.items():
            if not (fits := possible(rows[column])).all():
                raise ValueError(f"{column} is {rows[column][~fits].iloc[0]} in row {fits.argmin() + 1}")
    except (OSError, ValueError, OverflowError) as error:
        raise StudyError(f"{file} is damaged or no manifest ({str(error).splitlines()[0]}); make it again") from error
    return rows


def _between(low: float, high: float) -> Callable[[pd.Series], pd.Series]:
    return lambda values: values.between(low, high)


_POSSIBLE = {
    "slide": lambda names: ~names.str.contains(r"[/\\\0]") & (names != ""),  # it names a file
    "split": lambda names: names.isin(SPLITS),
    **dict.fromkeys(("x", "y"), _between(0, _LARGEST)),
    "level": _between(0, 100),
    "mpp": _between(1e-3, 1e3),
    "patch_size": _between(1, _LARGEST),
    **dict.fromkeys(("tumour", "ignored"), _between(0, 1)),
}
"""Which values a column can have; not the hashes, which are compared with those of the patches."""


def write_recipe(folder: Path, recipe: dict) -> None:
    """Note what a folder's patches are made from, before the first is made."""
    with replacing(recipe_path(folder)) as temporary:
        temporary.write_text(json.dumps(recipe, indent=1, sort_keys=True) + "\n")


def read_recipe(folder: Path) -> dict:
    """What a folder's patches are made from; it holds at least :data:`~study.data.patches.schema.RECIPE_KEYS`.

    Raises:
        StudyError: if it cannot be read.
    """
    file = recipe_path(folder)
    try:
        recipe = json.loads(file.read_text())
        for key in RECIPE_KEYS:
            recipe[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{file} is damaged; delete the folder and make it again") from error
    return recipe
