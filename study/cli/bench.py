"""``python -m study bench``: what things cost, and how they behave, on this machine."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from study.bench import angles as angle_errors
from study.bench import layers as layer_speed
from study.bench import models as model_costs
from study.bench import pipeline
from study.bench import pitfalls as escnn_pitfalls
from study.bench import rules as choice_rules
from study.bench import steps as step_speed
from study.bench.layers import Settings as LayerSettings
from study.bench.models import Settings
from study.bench.steps import Settings as StepSettings
from study.cli.slides import PATCHES
from study.data.datasets.registry import prepare
from study.data.patches.loading import PatchDataset, to_input
from study.errors import StudyError
from study.gconv.fast import rules as choice
from study.networks.checkpoint import load_checkpoint, rebuild
from study.provenance import provenance
from study.report.benchmarks import write_benchmark
from study.report.tables.costs import costs_caption, costs_legend
from study.report.tables.layers import layers_brief, layers_caption
from study.report.tables.pitfalls import pitfalls_cells
from study.report.tables.training_step import steps_brief, steps_caption, steps_legend

Root = Annotated[Path, typer.Option(help="Where results/ and figures/ are.", metavar="FOLDER")]
Size = Annotated[int, typer.Option(help="Side of the images in pixels.")]
Batch = Annotated[int, typer.Option(help="Images at a time.", min=1)]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Rounds = Annotated[int, typer.Option(help="How often everything is timed.", min=1)]


def models(
    width: Annotated[
        int, typer.Option(help="Channels of the U-Net at full resolution; a multiple of 8.")
    ] = Settings.width,
    depth: Annotated[int, typer.Option(help="Number of poolings, 1 to 5.")] = Settings.depth,
    size: Size = Settings.size,
    batch: Batch = Settings.batch,
    rounds: Rounds = Settings.rounds,
    root: Root = Path(),
) -> None:
    """What each U-Net costs, from scratch and on escnn: parameters, multiplications, time and memory."""
    settings = Settings(width, depth, size, batch, rounds)
    rows = model_costs.measure(model_costs.candidates(), settings, _device())
    path = write_benchmark(root, "models", rows)
    lines = [
        [f"{row.network}: {row.implementation}"]
        + [f"{x:.2f}" for x in (row.training_ratio, row.inference_ratio)]
        + [f"{row.peak_mb:.0f} MB"]
        for row in rows.itertuples()
    ]
    _show(["Network and layers", "Training", "Inference", "Memory"], lines, costs_caption(rows))
    print(f"{costs_legend(rows)}\n\nAll columns, with the spread: {path}")


def layers(
    widths: Annotated[str, typer.Option(help="Channels of the U-Nets, with commas between them.")] = "16,32,64",
    size: Size = LayerSettings.size,
    batches: Annotated[str, typer.Option(help="How many images at a time, likewise.")] = "1,4",
    precision: Precision = LayerSettings.precision,
    rounds: Rounds = LayerSettings.rounds,
    root: Root = Path(),
) -> None:
    """Each group convolution of the U-Nets: dense, by Fourier, on escnn, and a plain one of equal parameters."""
    settings = LayerSettings(_integers("widths", widths), size, _integers("batches", batches), precision, rounds)
    rows = layer_speed.measure(layer_speed.cases(settings), settings, _device())
    path = write_benchmark(root, "layers", rows)
    head, *lines = layers_brief(rows)
    _show(head, lines, layers_caption(rows))
    print(f"Forward and backward, times as fast as the dense form. All columns: {path}")


def rules(
    precision: Precision = "float32",
    output: Annotated[
        Path | None, typer.Option(help="The table to write.", metavar="CSV", show_default="in the user's cache")
    ] = None,
) -> None:
    """Which form of a group convolution is faster on this machine, at what size; from now on "auto" follows it."""
    try:
        output = output or choice.own_path()
    except OSError as error:
        raise StudyError(f"no place for this machine's rules ({error}); give --output") from error
    rows = choice_rules.measure(_device(), precision)
    choice_rules.write(output, rows)
    faster = (rows[["forward", "training"]] <= 1).groupby([rows.group, rows.layer]).mean()
    lines = [[*name, *(f"{100 * share:.0f} %" for share in shares)] for name, shares in faster.iterrows()]
    _show(
        ["Group", "Layer", "Forward", "Training"], lines, f"The Fourier form is faster in so many of {len(rows)} sizes"
    )
    print(f"Rules in {output}")


def training_step(
    widths: Annotated[str, typer.Option(help="Channels of the U-Nets, with commas between them.")] = "8,16,32,64",
    size: Size = StepSettings.size,
    batch: Batch = StepSettings.batch,
    precision: Precision = StepSettings.precision,
    rounds: Rounds = StepSettings.rounds,
    root: Root = Path(),
) -> None:
    """A training step and inference of whole U-Nets; at width 32 dense and on escnn too, on a GPU also compiled."""
    settings = StepSettings(_integers("widths", widths), size, batch, precision, rounds)
    rows = step_speed.measure(settings, _device())
    path = write_benchmark(root, "training-step", rows)
    head, *lines = steps_brief(rows)
    _show(head, lines, steps_caption(rows))
    print(f"{steps_legend(rows)}\n\nAll columns: {path}")


def pitfalls(root: Root = Path()) -> None:
    """What users of escnn trip over, tried on its layers and on ours."""
    rows = escnn_pitfalls.measure()
    path = write_benchmark(root, "pitfalls", rows)
    head, *lines = pitfalls_cells(rows)
    _show(head, lines, "Layers on P4, ours and escnn's")
    print(f"Results in {path}")


def angles(
    data: Annotated[
        Path, typer.Option(help="The data that the study was trained on: EBHI-SEG, or a store.", metavar="PATH")
    ],
    study: Annotated[str, typer.Option(help="Its name; networks are taken from runs/<study>/.")] = "ebhi-cpu",
    patches: Annotated[int, typer.Option(help="How many test patches to turn, at the most.", min=1)] = 64,
    root: Root = Path(),
) -> None:
    """How steady trained networks are under turns by any angle: P4, P4M, and P8 and P8M on escnn."""
    folders = {model: root / "runs" / study / f"{model}-100-0" for model in angle_errors.MODELS}
    files = {model: folder / "best.pt" for model, folder in folders.items() if (folder / "best.pt").is_file()}
    if not files:
        raise StudyError(f"no networks in {root / 'runs' / study}; train some with `python -m study reproduce`")
    checkpoints = {model: load_checkpoint(file) for model, file in files.items()}
    settings = next(iter(checkpoints.values()))["settings"]
    store = prepare(
        settings["source"],
        data=data,
        folder=root / "data",
        size=settings["size"],
        count=settings["patches"],
        task=settings.get("task", "glands"),  # of networks from before there were two
    )
    for model, checkpoint in checkpoints.items():
        if checkpoint["data"]["fingerprint"] != store.fingerprint:
            raise StudyError(f"{files[model]} was trained on other data than {data}; give the data of {study}")
    dataset = PatchDataset(store, angle_errors.spread_evenly(store.indices("test"), patches))
    images = to_input(torch.stack([dataset[i][0] for i in range(len(dataset))]))
    networks = {model: rebuild(checkpoint, files[model]) for model, checkpoint in checkpoints.items()}
    rows = angle_errors.measure(networks, images).assign(
        study=study,
        patches=len(images),
        source=store.source,
        fingerprint=store.fingerprint,
        **provenance(images.device),
    )
    path = write_benchmark(root, "angles", rows)
    table = rows.pivot(index="degrees", columns="model", values="difference")[list(files)]
    lines = [[f"{degrees:g}°", *(f"{value:.1e}" for value in row)] for degrees, row in table.iterrows()]
    _show(["Turn", *table.columns], lines, "Mean difference of the foreground probability")
    print(f"Results in {path}")


Source = Annotated[
    Path, typer.Argument(help="A small real slide, of which large ones are made.", metavar="SLIDE", show_default=False)
]
Processes = Annotated[int, typer.Option(help="That work at the same time.", min=1)]


def extraction(
    source: Source,
    processes: Processes = pipeline.Settings.processes,
    rounds: Rounds = pipeline.Settings.rounds,
    root: Root = Path(),
) -> None:
    """Patches per second out of slides, against OpenSlide reading the same regions; and the memory it takes."""
    settings = pipeline.Settings(processes=processes, rounds=rounds)
    about = {"patch_size": settings.patch_size, **provenance(torch.device("cpu"), processes)}
    rates = pipeline.extraction(source, settings).assign(**about)
    path = write_benchmark(root, "extraction", rates)
    lines = [
        [f"{row.extraction:.0f}", f"{row.openslide:.0f}", f"{100 * row.share:.0f} %"] for row in rates.itertuples()
    ]
    _show(["Extraction", "OpenSlide alone", "Share"], lines, f"Patches per second, {processes} processes")
    memory = pipeline.memory(source, (1_000, 10_000), settings).assign(**about)
    write_benchmark(root, "memory", memory)
    lines = [[f"{row.patches:,}", f"{row.peak_mb:.0f} MB"] for row in memory.itertuples()]
    _show(["Patches of one slide", "Peak memory"], lines, "One process")
    minutes = PATCHES / rates.extraction.median() / 60
    print(f"At this rate, {PATCHES:,} patches of 400 slides take {minutes:.0f} minutes.\nResults in {path.parent}")


def loading(
    source: Source,
    processes: Processes = pipeline.Settings.processes,
    rounds: Rounds = pipeline.Settings.rounds,
    root: Root = Path(),
) -> None:
    """Patches per second into training, from the store and from other formats."""
    settings = pipeline.Settings(processes=processes, rounds=rounds)
    about = {"patch_size": settings.patch_size, **provenance(torch.device("cpu"), processes)}
    rows = pipeline.loading(source, settings).assign(**about)
    path = write_benchmark(root, "loading", rows)
    medians = rows.groupby("format", sort=False)[["rate", "kb"]].median()
    lines = [[name, f"{row.rate:.0f}", f"{row.kb:.0f} kB"] for name, row in medians.iterrows()]
    _show(["Format", "Patches per second", "A patch"], lines, f"{processes} processes, medians of {rounds}")
    print(f"Results in {path}")


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise StudyError(f"{name} are {text!r}; give integers with commas between them, such as 1,4") from error


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _show(head: list[str], lines: list[list[str]], title: str) -> None:
    table = Table(*head, title=title)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
