"""``python -m study bench``: measure time, memory and behaviour on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from study.cli.studies import Changes, Name, PresetName
from study.errors import StudyError

Root = Annotated[Path, typer.Option(help="The folder that contains results/ and figures/.", metavar="FOLDER")]
Size = Annotated[int, typer.Option(help="Side of the images in pixels.")]
Batch = Annotated[int, typer.Option(help="Number of images in a batch.", min=1)]
Precision = Annotated[str, typer.Option(help="Number format: float32, bfloat16 or float16.")]
Rounds = Annotated[int, typer.Option(help="Number of times that everything is timed.", min=1)]


def models(
    width: Annotated[int, typer.Option(help="Channels of the U-Net at full resolution; a multiple of 8.")] = 32,
    depth: Annotated[int, typer.Option(help="Number of poolings, 1 to 5.")] = 4,
    size: Size = 96,
    batch: Batch = 4,
    rounds: Rounds = 7,
    root: Root = Path(),
) -> None:
    """Measure each U-Net, from scratch and on escnn: parameters, multiplications, time and memory."""
    from study.bench import models as costs
    from study.cli.show import show_table
    from study.devices import device
    from study.report.benchmarks import write_benchmark
    from study.report.tables.costs import costs_caption, costs_legend

    settings = costs.Settings(width, depth, size, batch, rounds)
    rows = costs.measure(costs.candidates(), settings, device())
    path = write_benchmark(root, "models", rows)
    lines = [
        [f"{row.network}: {row.implementation}"]
        + [f"{x:.2f}" for x in (row.training_ratio, row.inference_ratio)]
        + [f"{row.peak_mb:.0f} MB"]
        for row in rows.itertuples()
    ]
    show_table(["Network and layers", "Training", "Inference", "Memory"], lines, costs_caption(rows))
    print(f"{costs_legend(rows)}\n\nAll columns, with the spread: {path}")


def layers(
    widths: Annotated[
        str, typer.Option(help="Channels of the U-Nets at full resolution, separated by commas.")
    ] = "16,32,64",
    size: Size = 96,
    batches: Annotated[str, typer.Option(help="Numbers of images in a batch, separated by commas.")] = "1,4",
    precision: Precision = "float32",
    rounds: Rounds = 5,
    root: Root = Path(),
) -> None:
    """Time each group convolution of the U-Nets: dense, by Fourier, on escnn, and a plain one of equal parameters."""
    from study.bench import layers as timing
    from study.cli.show import show_table
    from study.devices import device
    from study.report.benchmarks import write_benchmark
    from study.report.tables.layers import layers_brief, layers_caption

    settings = timing.Settings(_integers("widths", widths), size, _integers("batches", batches), precision, rounds)
    rows = timing.measure(timing.cases(settings), settings, device())
    path = write_benchmark(root, "layers", rows)
    head, *lines = layers_brief(rows)
    show_table(head, lines, layers_caption(rows))
    print(f"Speed-up over the dense form, forward and backward. All columns: {path}")


def rules(
    precision: Precision = "float32",
    output: Annotated[
        Path | None, typer.Option(help="The table to write.", metavar="CSV", show_default="in the user's cache")
    ] = None,
) -> None:
    """Find which form of a group convolution is faster on this machine at each size; "auto" uses the result."""
    from study.bench import rules as timing
    from study.cli.show import show_table
    from study.devices import device
    from study.gconv.fast import rules as choice

    try:
        output = output or choice.own_path()
    except OSError as error:
        raise StudyError(f"the rules of this machine cannot be stored ({error}); give --output") from error
    timing.check_output(output)  # before minutes of measuring
    rows = timing.measure(device(), precision)
    timing.write(output, rows)
    faster = (rows[["forward", "training"]] <= 1).groupby([rows.group, rows.layer]).mean()
    lines = [[*name, *(f"{100 * share:.0f} %" for share in shares)] for name, shares in faster.iterrows()]
    show_table(
        ["Group", "Layer", "Forward", "Training"], lines, f"The Fourier form is faster in so many of {len(rows)} sizes"
    )
    print(f"Rules in {output}")


def training_step(
    widths: Annotated[
        str, typer.Option(help="Channels of the U-Nets at full resolution, separated by commas.")
    ] = "8,16,32,64",
    size: Size = 96,
    batch: Batch = 8,
    precision: Precision = "float32",
    rounds: Rounds = 9,
    root: Root = Path(),
) -> None:
    """Time a training step and inference of whole U-Nets, at width 32 also dense and on escnn, on GPUs compiled too."""
    from study.bench import steps
    from study.cli.show import show_table
    from study.devices import device
    from study.report.benchmarks import write_benchmark
    from study.report.tables.training_step import steps_brief, steps_caption, steps_legend

    settings = steps.Settings(_integers("widths", widths), size, batch, precision, rounds)
    rows = steps.measure(settings, device())
    path = write_benchmark(root, "training-step", rows)
    head, *lines = steps_brief(rows)
    show_table(head, lines, steps_caption(rows))
    print(f"{steps_legend(rows)}\n\nAll columns: {path}")


def updates(
    preset: PresetName = "quick", changes: Changes = (), name: Name = None, rounds: Rounds = 9, root: Root = Path()
) -> None:
    """Time an update and a prediction of each network of a study, on one core as its trials; its tables take them."""
    from study.bench import updates as timing
    from study.cli.show import show_table
    from study.devices import device, one_thread
    from study.experiments.opening import changed_preset
    from study.experiments.presets import study_name
    from study.networks.models import MODELS
    from study.report.benchmarks import write_benchmark

    changed = changed_preset(preset, changes, name)
    with one_thread():
        rows = timing.measure(name or study_name(preset), changed, rounds=rounds, device=device())
    path = write_benchmark(root, "updates", rows)
    lines = [
        [MODELS[row.model].label, f"{row.update_ms:.0f} ms", f"{row.update_ratio:.2f}", f"{row.prediction_ratio:.2f}"]
        for row in rows.itertuples()
    ]
    about = f"{rows.batch_size[0]} patches of {rows['size'][0]} px, one thread"
    show_table(["Network", "Update", "Update, ratio", "Prediction, ratio"], lines, about)
    print(f"Results in {path}; `python -m study figures` draws with them")


def pitfalls(root: Root = Path()) -> None:
    """Try what users of escnn trip over, on its layers and on ours."""
    from study.bench import pitfalls as probes
    from study.cli.show import show_table
    from study.report.benchmarks import write_benchmark
    from study.report.tables.pitfalls import pitfalls_cells

    rows = probes.measure()
    path = write_benchmark(root, "pitfalls", rows)
    head, *lines = pitfalls_cells(rows)
    show_table(head, lines, "Layers on P4, ours and escnn's")
    print(f"Results in {path}")


def angles(
    data: Annotated[
        Path,
        typer.Option(
            help="The data that the study was trained on: the EBHI-SEG folder, or a patch store.", metavar="PATH"
        ),
    ],
    study: Annotated[str, typer.Option(help="Name of the study; its networks are in runs/<study>/.")] = "ebhi-cpu",
    patches: Annotated[int, typer.Option(help="Largest number of test patches.", min=1)] = 64,
    root: Root = Path(),
) -> None:
    """Measure how trained networks answer to turns by any angle: P4, P4M, and P8 and P8M on escnn."""
    from study.bench import angles as turns
    from study.cli.show import show_table
    from study.report.benchmarks import write_benchmark

    rows = turns.measure_study(study, data, count=patches, root=root)
    path = write_benchmark(root, "angles", rows)
    table = rows.pivot(index="degrees", columns="model", values="difference")[list(rows.model.unique())]
    lines = [[f"{degrees:g}°", *(f"{value:.1e}" for value in row)] for degrees, row in table.iterrows()]
    show_table(["Turn", *table.columns], lines, "Mean difference of the foreground probability")
    print(f"Results in {path}")


def export(
    width: Annotated[int, typer.Option(help="Channels of the U-Net at full resolution.", min=1)] = 16,
    depth: Annotated[int, typer.Option(help="Number of poolings, 1 to 5.")] = 4,
    rounds: Rounds = 7,
    root: Root = Path(),
) -> None:
    """Measure the U-Net and the P4M U-Net exported to each format: size, time, and difference to the network."""
    from study.bench import export as exports
    from study.cli.show import show_table
    from study.report.benchmarks import write_benchmark
    from study.report.tables.export import export_caption, export_cells

    rows = exports.measure(exports.Settings(width, depth, rounds))
    path = write_benchmark(root, "export", rows)
    head, *lines = export_cells(rows)
    show_table(head, lines, export_caption(rows))
    print(f"Results in {path}")


RealSlide = Annotated[
    Path,
    typer.Argument(help="A small real slide; copies of it make up large ones.", metavar="SLIDE", show_default=False),
]
Processes = Annotated[int, typer.Option(help="Number of processes.", min=1)]


def extraction(
    slide: RealSlide,
    processes: Processes = 2,
    rounds: Rounds = 7,
    root: Root = Path(),
) -> None:
    """Measure patches per second out of slides, beside OpenSlide reading the same regions, and the memory."""
    from study.bench import pipeline
    from study.cli.show import show_table
    from study.report.benchmarks import write_benchmark

    settings = pipeline.Settings(processes=processes, rounds=rounds)
    about = pipeline.conditions(settings)
    rates = pipeline.extraction(slide, settings).assign(**about)
    path = write_benchmark(root, "extraction", rates)
    lines = [
        [f"{row.extraction:.0f}", f"{row.openslide:.0f}", f"{100 * row.share:.0f} %"] for row in rates.itertuples()
    ]
    show_table(["Extraction", "OpenSlide alone", "Share"], lines, f"Patches per second, {processes} processes")
    memory = pipeline.memory(slide, (1_000, 10_000), settings).assign(**about)
    write_benchmark(root, "memory", memory)
    lines = [[f"{row.patches:,}", f"{row.peak_mb:.0f} MB"] for row in memory.itertuples()]
    show_table(["Patches of one slide", "Peak memory"], lines, "One process")
    patches = 300_000  # of the paper
    minutes = patches / rates.extraction.median() / 60
    print(f"At this rate, {patches:,} patches of 399 slides take {minutes:.0f} minutes.\nResults in {path.parent}")


def loading(
    slide: RealSlide,
    processes: Processes = 2,
    rounds: Rounds = 7,
    root: Root = Path(),
) -> None:
    """Measure patches per second into training, from the store and from other formats."""
    from study.bench import pipeline
    from study.cli.show import show_table
    from study.report.benchmarks import write_benchmark

    settings = pipeline.Settings(processes=processes, rounds=rounds)
    rows = pipeline.loading(slide, settings).assign(**pipeline.conditions(settings))
    path = write_benchmark(root, "loading", rows)
    medians = rows.groupby("format", sort=False)[["rate", "kb"]].median()
    lines = [[name, f"{row.rate:.0f}", f"{row.kb:.0f} kB"] for name, row in medians.iterrows()]
    show_table(["Format", "Patches per second", "A patch"], lines, f"{processes} processes, medians of {rounds}")
    print(f"Results in {path}")


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise StudyError(f"{name} are {text!r}; give integers separated by commas, such as 1,4") from error
