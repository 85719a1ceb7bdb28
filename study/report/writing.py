"""The files of a study's tables, in Markdown and CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from study.experiments.trials import diverged_trials
from study.files import replacing
from study.report.answers import claim_table, contrast_table
from study.report.claims import claim_rows
from study.report.contrasts import contrast_rows
from study.report.records import trial_rows
from study.report.summary import has_escnn, summary_rows
from study.report.tables import dice_table, implementation_table, stability_table


def write_tables(records: Sequence[dict], results: Path, figures: Path) -> None:
    """Write ``trials.csv`` beside the records, and the tables of models and data regimes to the folder of the figures.

    Raises:
        StudyError: if a file cannot be written.
    """
    texts = {
        results / "trials.csv": trial_rows(records).to_csv(index=False),
        figures / "dice_table.csv": summary_rows(records).to_csv(index=False, float_format="%.6g"),
        figures / "dice_table.md": dice_table(records),
        figures / "stability_table.md": stability_table(records),
    }
    if has_escnn(records):
        texts[figures / "implementation_table.md"] = implementation_table(records)
    _write(texts, results)


def write_answers(studies: Mapping[str, Sequence[dict]], results: Path, figures: Path) -> None:
    """Write the claims to the folder of the figures, and the contrasts if there are any.

    Args:
        studies: records by task, see :func:`~study.report.contrasts.contrast_rows`.
        results: folder of the first one.
        figures: the folder.

    Raises:
        StudyError: if networks of one seed were tested on different cases, or a file cannot be written.
    """
    contrasts = contrast_rows(studies)
    texts = {
        figures / "claims.md": claim_table(studies),
        figures / "claims.csv": claim_rows(studies).to_csv(index=False, float_format="%.6g"),
    }
    if len(contrasts):
        texts[figures / "contrasts.md"] = contrast_table(studies)
        texts[figures / "contrasts.csv"] = contrasts.to_csv(index=False, float_format="%.6g")
    _write(texts, results)


def _write(texts: Mapping[Path, str], results: Path) -> None:
    """Below what is for people stands which trials are not in it."""
    diverged = "; ".join(map(str, diverged_trials(results)))
    note = f"\nLeft out, as they ended worse than a constant prediction: {diverged}.\n" if diverged else ""
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text + note * (path.suffix == ".md"))
