"""The command line, ``python -m study``.

Every command imports what it runs inside its function: help, and what is said about a misspelt command or option, need
neither torch nor pandas, whose import takes seconds. The modules of commands themselves import typer and names only.
"""

import sys
import warnings

import typer

from study.cli import bench, documents, export, networks, packaging, prediction, slides, stores, studies, tuning
from study.cli.variants import variant
from study.data.datasets.registry import DATA_SETS
from study.errors import StudyError, StudyNotice, one_line
from study.experiments.presets import setting_keys

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "A comparison of group-equivariant U-Nets for segmentation, from images to the paper's table and figures.\n\n"
        "Start with [bold]python -m study reproduce[/bold]: it needs no data and takes five to nine minutes."
    ),
)

for command in (
    *(studies.reproduce, studies.train, networks.evaluate, prediction.predict),
    *(studies.figures, documents.docs, networks.check, networks.convert),
    *(export.export, packaging.package),
):
    app.command()(command)
app.command("tune")(tuning.tune_rates)

data = typer.Typer(no_args_is_help=True, help="Prepare data: make the patch store that networks are trained from.")
for data_set in DATA_SETS.values():
    if data_set.draw is not None:
        data.command(data_set.name)(slides.of_drawing(data_set))
    elif data_set.read is not None:
        data.command(data_set.name)(stores.of_images(data_set))
    elif data_set.download is not None:
        data.command(data_set.name)(slides.of_slides(data_set))
data.command()(stores.folder)
data.command("compare-masks", hidden=True)(variant(slides.compare_masks, "", of="camelyon16"))  # its former name
app.add_typer(data, name="data")
on_slides = typer.Typer(no_args_is_help=True, help="Cut patches from whole slides, and compare their masks.")
on_slides.command("extract")(variant(slides.extract, "", get=False, address=None))
on_slides.command()(slides.compare_masks)
app.add_typer(on_slides, name="slides")
benchmarks = typer.Typer(no_args_is_help=True, help="Measure time, memory and behaviour on this machine.")
for command in (
    *(bench.models, bench.layers, bench.rules, bench.training_step, bench.updates, bench.pitfalls, bench.angles),
    *(bench.export, bench.extraction, bench.loading),
):
    benchmarks.command()(command)
app.add_typer(benchmarks, name="bench")


def main() -> None:
    """Run the command line; a user's error is one line on standard error and exit code 2."""
    warnings.showwarning = _show
    try:
        if sys.argv[-1] == "--set":
            raise StudyError(f"--set needs KEY=VALUE; the keys are {', '.join(setting_keys())}")
        app()
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, by its name: torch may not be imported
            raise
        batches = "for evaluate, --batch-size N; for predict, --tile N; for bench, --batch N"
        remedy = f"give a smaller batch (--set batch_size=N and a --name; {batches})"
        print(f"error: the GPU's memory is full; {remedy}", file=sys.stderr)
        sys.exit(2)
    except StudyError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _show(message, category, filename, lineno, file=None, line=None) -> None:
    """Print our own notices as one line, and other warnings as Python does."""
    if category is StudyNotice:
        text = f"note: {message}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)
