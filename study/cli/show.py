"""Tables and patch stores, as commands print them."""

import numpy as np
from rich.console import Console
from rich.table import Table

from study.data.patches.store import SPLITS, PatchStore


def show_table(head: list[str], lines: list[list[str]], title: str | None = None) -> None:
    table = Table(*head, title=title)
    for line in lines:
        table.add_row(*line)
    Console(markup=False, emoji=False).print(table)  # names of classes and files are not markup


def show_store(store: PatchStore) -> None:
    lines = []
    for split in SPLITS:
        rows = store.split == split
        lines.append([split, f"{rows.sum()}", f"{len(np.unique(store.case[rows]))}"])
    show_table(["Split", "Patches", "Cases"], lines, f"{store.path}: {describe(store)}")


def describe(store: PatchStore) -> str:
    return f"{len(store)} patches of {store.size[0]} x {store.size[1]} ({store.source}, {store.fingerprint})"
