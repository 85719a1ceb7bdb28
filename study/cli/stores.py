"""``python -m study data``: make a patch store, from which networks are trained."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from study.data.patches import SPLITS, PatchStore
from study.data.sources import ebhi_store
from study.errors import StudyError


def ebhi(
    folder: Annotated[Path, typer.Argument(help="The EBHI-SEG folder (figshare 21540159).", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The patch store to write (.h5).", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of the patches in pixels; the originals have 224.", min=1)] = 224,
) -> None:
    """Read EBHI-SEG: 2,226 H&E patches of colorectal biopsies with masks of the glands."""
    check_new(output)
    show_store(ebhi_store(output, folder=folder, size=size))


def check_new(output: Path) -> None:
    if output.exists():
        raise StudyError(f"{output} exists; choose another name, or delete it")


def show_store(store: PatchStore) -> None:
    table = Table("Split", "Patches", "Cases", title=f"{store.path}: {describe(store)}")
    for split in SPLITS:
        rows = store.split == split
        table.add_row(split, f"{rows.sum()}", f"{len(np.unique(store.case[rows]))}")
    Console().print(table)


def describe(store: PatchStore) -> str:
    return f"{len(store)} patches of {store.size[0]} x {store.size[1]} ({store.source}, {store.fingerprint})"
