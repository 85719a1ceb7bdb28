"""``python -m study bench``: what things cost, and how they behave, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from study.errors import StudyError

Root = Annotated[Path, typer.Option(help="Where results/ and figures/ are.", metavar="FOLDER")]
Size = Annotated[int, typer.Option(help="Side of the images in pixels.")]
Batch = Annotated[int, typer.Option(help="Images at a time.", min=1)]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Rounds = Annotated[int, typer.Option(help="How often everything is timed.", min=1)]


def models(
    width: Annotated[int, typer.Option(help="Channels of the U-Net at full resolution; a multiple of 8.")] = 32,
    depth: Annotated[int, typer.Option(help="Number of poolings, 1 to 5.")] = 4,
    size: Size = 96,
    batch: Batch = 4,
    rounds: Rounds = 7,
    root: Root = Path(),
) -> None:
    """What each U-Net costs, from scratch and on escnn: parameters, multiplications, time and memory."""
    from study.bench import models as costs
    from study.bench import report
    from study.cli.show import show_table
    from study.devices import device

    settings = costs.Settings(width, depth, size, batch, rounds)
    rows = costs.measure(costs.candidates(), settings, device())
    path = report.write_costs(root, rows)
    lines = [
        [f"{row.network}: {row.implementation}"]
        + [f"{x:.2f}" for x in (row.training_ratio, row.inference_ratio)]
        + [f"{row.peak_mb:.0f} MB"]
        for row in rows.itertuples()
    ]
    show_table(["Network and layers", "Training", "Inference", "Memory"], lines, report.costs_caption(rows))
    print(f"{report.costs_legend(rows)}\n\nAll columns, with the spread: {path}")


def layers(
    widths: Annotated[str, typer.Option(help="Channels of the U-Nets, with commas between them.")] = "16,32,64",
    size: Size = 96,
    batches: Annotated[str, typer.Option(help="How many images at a time, likewise.")] = "1,4",
    precision: Precision = "float32",
    rounds: Rounds = 5,
    root: Root = Path(),
) -> None:
    """Each group convolution of the U-Nets: dense, by Fourier, on escnn, and a plain one of equal parameters."""
    from study.bench import layers as timing
    from study.bench import speed
    from study.cli.show import show_table
    from study.devices import device

    settings = timing.Settings(_integers("widths", widths), size, _integers("batches", batches), precision, rounds)
    rows = timing.measure(timing.cases(settings), settings, device())
    path = speed.write_layers(root, rows)
    head, *lines = speed.layers_brief(rows)
    show_table(head, lines, speed.layers_caption(rows))
    print(f"Forward and backward, times as fast as the dense form. All columns: {path}")


def rules(
    precision: Precision = "float32",
    output: Annotated[
        Path | None, typer.Option(help="The table to write.", metavar="CSV", show_default="in the user's cache")
    ] = None,
) -> None:
    """Which form of a group convolution is faster on this machine, at what size; from now on "auto" follows it."""
    from study.bench import rules as timing
    from study.cli.show import show_table
    from study.devices import device
    from study.gconv.fast import rules as choice

    try:
        output = output or choice.own_path()
    except OSError as error:
        raise StudyError(f"no place for this machine's rules ({error}); give --output") from error
    rows = timing.measure(device(), precision)
    timing.write(output, rows)
    faster = (rows[["forward", "training"]] <= 1).groupby([rows.group, rows.layer]).mean()
    lines = [[*name, *(f"{100 * share:.0f} %" for share in shares)] for name, shares in faster.iterrows()]
    show_table(
        ["Group", "Layer", "Forward", "Training"], lines, f"The Fourier form is faster in so many of {len(rows)} sizes"
    )
    print(f"Rules in {output}")


def training_step(
    widths: Annotated[str, typer.Option(help="Channels of the U-Nets, with commas between them.")] = "8,16,32,64",
    size: Size = 96,
    batch: Batch = 8,
    precision: Precision = "float32",
    rounds: Rounds = 9,
    root: Root = Path(),
) -> None:
    """A training step and inference of whole U-Nets; at width 32 dense and on escnn too, on a GPU also compiled."""
    from study.bench import speed, steps
    from study.cli.show import show_table
    from study.devices import device

    settings = steps.Settings(_integers("widths", widths), size, batch, precision, rounds)
    rows = steps.measure(settings, device())
    path = speed.write_steps(root, rows)
    head, *lines = speed.steps_brief(rows)
    show_table(head, lines, speed.steps_caption(rows))
    print(f"{speed.steps_legend(rows)}\n\nAll columns: {path}")


def pitfalls(root: Root = Path()) -> None:
    """What users of escnn trip over, tried on its layers and on ours."""
    from study.bench import pitfalls as probes
    from study.bench import report
    from study.cli.show import show_table

    rows = probes.measure()
    path = report.write_pitfalls(root, rows)
    head, *lines = report.pitfalls_cells(rows)
    show_table(head, lines, "Layers on P4, ours and escnn's")
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
    from study.bench import angles as turns
    from study.bench import report
    from study.cli.show import show_table

    rows = turns.measure_study(study, data, count=patches, root=root)
    path = report.write_angles(root, rows)
    table = rows.pivot(index="degrees", columns="model", values="difference")[list(rows.model.unique())]
    lines = [[f"{degrees:g}°", *(f"{value:.1e}" for value in row)] for degrees, row in table.iterrows()]
    show_table(["Turn", *table.columns], lines, "Mean difference of the foreground probability")
    print(f"Results in {path}")


RealSlide = Annotated[
    Path, typer.Argument(help="A small real slide, of which large ones are made.", metavar="SLIDE", show_default=False)
]
Processes = Annotated[int, typer.Option(help="That work at the same time.", min=1)]


def extraction(
    slide: RealSlide,
    processes: Processes = 2,
    rounds: Rounds = 7,
    root: Root = Path(),
) -> None:
    """Patches per second out of slides, against OpenSlide reading the same regions; and the memory it takes."""
    from study.bench import pipeline, report
    from study.cli.show import show_table

    settings = pipeline.Settings(processes=processes, rounds=rounds)
    about = pipeline.conditions(settings)
    rates = pipeline.extraction(slide, settings).assign(**about)
    path = report.write_pipeline(root, "extraction", rates)
    lines = [
        [f"{row.extraction:.0f}", f"{row.openslide:.0f}", f"{100 * row.share:.0f} %"] for row in rates.itertuples()
    ]
    show_table(["Extraction", "OpenSlide alone", "Share"], lines, f"Patches per second, {processes} processes")
    memory = pipeline.memory(slide, (1_000, 10_000), settings).assign(**about)
    report.write_pipeline(root, "memory", memory)
    lines = [[f"{row.patches:,}", f"{row.peak_mb:.0f} MB"] for row in memory.itertuples()]
    show_table(["Patches of one slide", "Peak memory"], lines, "One process")
    patches = 300_000  # of the paper
    minutes = patches / rates.extraction.median() / 60
    print(f"At this rate, {patches:,} patches of 400 slides take {minutes:.0f} minutes.\nResults in {path.parent}")


def loading(
    slide: RealSlide,
    processes: Processes = 2,
    rounds: Rounds = 7,
    root: Root = Path(),
) -> None:
    """Patches per second into training, from the store and from other formats."""
    from study.bench import pipeline, report
    from study.cli.show import show_table

    settings = pipeline.Settings(processes=processes, rounds=rounds)
    rows = pipeline.loading(slide, settings).assign(**pipeline.conditions(settings))
    path = report.write_pipeline(root, "loading", rows)
    medians = rows.groupby("format", sort=False)[["rate", "kb"]].median()
    lines = [[name, f"{row.rate:.0f}", f"{row.kb:.0f} kB"] for name, row in medians.iterrows()]
    show_table(["Format", "Patches per second", "A patch"], lines, f"{processes} processes, medians of {rounds}")
    print(f"Results in {path}")


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise StudyError(f"{name} are {text!r}; give integers with commas between them, such as 1,4") from error
