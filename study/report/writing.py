"""The files of a study's tables and figures."""

from pathlib import Path

from matplotlib.figure import Figure

from study.errors import StudyError
from study.experiments.records import results_folder
from study.files import remove_half_written, replacing
from study.report.figures import FIGURES
from study.report.results import StudyResults, read_study
from study.report.style import save
from study.report.tables import TABLES


def make_figures(root: Path, name: str) -> list[Path]:
    """Write ``figures/<study>/``: tables as Markdown and CSV, figures as PNG and SVG; and ``trials.csv`` beside the
    records.

    What a study has not, or has no longer, is not left from an earlier call, or it would stand beside other numbers.

    Returns:
        What was written to the figures' folder.

    Raises:
        StudyError: if there are no results, or they are damaged, or a file cannot be written.
    """
    study, folder = read_study(root, name), root / "figures" / name
    remove_half_written(folder)
    _write(results_folder(root, name) / "trials.csv", study.trials.to_csv(index=False))
    for title, made in TABLES.items():
        text = made.text(study)
        _write(folder / f"{title}.md", text + _left_out(study) if text else None)
        if made.rows:
            csv = made.rows(study).to_csv(index=False, float_format="%.6g")
            _write(folder / f"{title}.csv", csv if text else None)
    for title, draw_it in FIGURES.items():
        figure = draw_it(study)
        if figure:
            save(figure, folder / title)
        else:
            for suffix in ("png", "svg"):
                (folder / f"{title}.{suffix}").unlink(missing_ok=True)
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))


def draw(name: str, study: StudyResults) -> Figure | None:
    """A figure of a study; None where it has nothing to draw.

    Raises:
        StudyError: if there is no figure of that name, or what it draws is damaged.
    """
    if name not in FIGURES:
        raise StudyError(f"there is no figure {name!r}; there are {', '.join(FIGURES)}")
    return FIGURES[name](study)


def table(name: str, study: StudyResults) -> str:
    """A table of a study in Markdown; a line that says so where it has nothing to show.

    Raises:
        StudyError: if there is no table of that name.
    """
    if name not in TABLES:
        raise StudyError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name].text(study) or f"{study.name} has no {name.replace('_', ' ')} yet."


def contents() -> dict[str, str]:
    """What each table and each figure of a study shows, in a line, by name; a name may have both."""
    lines = {f"{name}.md": made.about for name, made in TABLES.items()}
    return lines | {f"{name}.png": draw_it.__doc__.strip().splitlines()[0] for name, draw_it in FIGURES.items()}


def _left_out(study: StudyResults) -> str:
    """Below what is for people stands which trials are not in it."""
    diverged = "; ".join(map(str, study.diverged))
    return f"\nLeft out, as they ended worse than a constant prediction: {diverged}.\n" if diverged else ""


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary:
        temporary.write_text(text)
