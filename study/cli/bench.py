"""``python -m study bench``: what things cost, and how they behave, on this machine."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from study.bench import models as model_costs
from study.bench import pitfalls as escnn_pitfalls
from study.bench import report

Root = Annotated[Path, typer.Option(help="Where results/ and figures/ are.", metavar="FOLDER")]
_DEFAULT = {field.name: field.default for field in fields(model_costs.Settings)}


def models(
    width: Annotated[int, typer.Option(help="Channels of the U-Net at full resolution; a multiple of 8.")] = _DEFAULT[
        "width"
    ],
    depth: Annotated[int, typer.Option(help="Number of poolings, 1 to 5.")] = _DEFAULT["depth"],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = _DEFAULT["size"],
    batch: Annotated[int, typer.Option(help="Images at a time.", min=1)] = _DEFAULT["batch"],
    rounds: Annotated[int, typer.Option(help="How often everything is timed.", min=1)] = _DEFAULT["rounds"],
    root: Root = Path(),
) -> None:
    """What each U-Net costs, from scratch and on escnn: parameters, multiplications, time and memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = model_costs.Settings(width, depth, size, batch, rounds)
    rows = model_costs.measure(settings, device)
    path = report.write_costs(root, rows)
    head, *lines = report.costs_cells(rows, spread=False)
    _show(head, lines, report.costs_caption(rows))
    print(f"{report.costs_legend(rows)}\n\nResults in {path}")


def pitfalls(root: Root = Path()) -> None:
    """What users of escnn trip over, tried on its layers and on ours."""
    rows = escnn_pitfalls.measure()
    path = report.write_pitfalls(root, rows)
    head, *lines = report.pitfalls_cells(rows)
    _show(head, lines, "Layers on P4, ours and escnn's")
    print(f"Results in {path}")


def _show(head: list[str], lines: list[list[str]], title: str) -> None:
    table = Table(*head, title=title)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
