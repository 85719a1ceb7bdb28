"""All tables and figures of a study, from what is in its results folder; needs neither data nor networks."""

from pathlib import Path

from study.experiments.maps import load_stability_maps
from study.experiments.trials import record_files, results_folder
from study.networks.models import NATIVE_MODELS
from study.report import (
    caption,
    contrast_rows,
    has_escnn,
    implementation_rows,
    load_records,
    plots,
    summary_rows,
    trial_rows,
    write_answers,
    write_tables,
)
from study.report.forest import forest

FURTHER_TASKS = {"ebhi-cancer": ("ebhi-glands", "nuclei")}
"""Studies whose contrasts are tested together with those of another, and whose claims stand beside its own."""


def maps_path(root: Path, study: str) -> Path:
    return results_folder(root, study) / "stability_maps.npz"


def make_figures(root: Path, study: str) -> list[Path]:
    """Write ``figures/<study>/``: the tables, contrasts and claims, and the figures, each as PNG and SVG.

    A study that :data:`FURTHER_TASKS` names has its contrasts and claims beside those of the other one. Dice against
    data and the ablation are of the models from scratch only. The comparison of implementations is drawn
    where there are trials on escnn and their twins, and the stability panel where the study has stability maps of its
    own data.

    Returns:
        What was written to the figures' folder.

    Raises:
        StudyError: if there are no results, or they are damaged.
    """
    results, figures = results_folder(root, study), root / "figures" / study
    records = load_records(results)
    text = caption(records)
    write_tables(records, results, figures)
    if not any(study in further for further in FURTHER_TASKS.values()):
        tasks = tasks_of(root, study, records)
        write_answers(tasks, results, figures)
        contrasts = contrast_rows(tasks)
        if len(contrasts):
            plots.save(forest(contrasts, text), figures / "contrasts")
    trials = trial_rows(records)
    if trials.model.isin(NATIVE_MODELS).any():
        summary = summary_rows(records)
        plots.save(plots.dice_against_data(summary, trials, text), figures / "dice_against_data")
        plots.save(plots.p4_against_p4m(summary, text), figures / "p4_against_p4m")
    if has_escnn(records):
        plots.save(plots.implementations(implementation_rows(records), text), figures / "implementations")
    if maps_path(root, study).is_file():
        maps = load_stability_maps(maps_path(root, study))
        if maps["fingerprint"] == records[0]["data"]["fingerprint"]:
            plots.save(plots.stability_panel(maps, f"{maps['networks']}; {text}"), figures / "stability")
        else:  # what was drawn of other data must not stand beside these tables
            for suffix in ("png", "svg"):
                (figures / f"stability.{suffix}").unlink(missing_ok=True)
    return sorted(file for file in figures.iterdir() if not file.name.startswith("."))


def tasks_of(root: Path, study: str, records: list[dict]) -> dict[str, list[dict]]:
    """The records of a study by task, and those of the further tasks that have some."""
    found = {study: records}
    for other in FURTHER_TASKS.get(study, ()):
        if record_files(results_folder(root, other)):
            found[other] = load_records(results_folder(root, other))
    return {one[0]["settings"].get("task") or name: one for name, one in found.items()}
