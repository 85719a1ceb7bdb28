"""All tables and figures of a study, from what is in its results folder; needs neither data nor networks."""

from pathlib import Path

from study import plots
from study.maps import load_stability_maps
from study.models import NATIVE_MODELS
from study.report import (
    caption,
    has_escnn,
    implementation_rows,
    load_records,
    summary_rows,
    trial_rows,
    write_tables,
)
from study.trials import results_folder


def maps_path(root: Path, study: str) -> Path:
    return results_folder(root, study) / "stability_maps.npz"


def make_figures(root: Path, study: str) -> list[Path]:
    """Write ``figures/<study>/``: the Dice and stability tables, and the figures, each as PNG and SVG.

    Dice against data and the ablation are of the models from scratch only. The comparison of implementations is drawn
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
    write_tables(results, figures)
    trials = trial_rows(records)
    if trials.model.isin(NATIVE_MODELS).any():
        plots.save(plots.dice_against_data(trials, text), figures / "dice_against_data")
        plots.save(plots.p4_against_p4m(summary_rows(records), text), figures / "p4_against_p4m")
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
