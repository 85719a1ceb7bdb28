"""From the records of the trials to tables: one row per trial, and Dice and stability per model and data regime.

Two spreads are given. Over seeds: the standard deviation, for what training itself leaves to chance. Over patients: a
bootstrap interval that draws the test cases anew, for what a test set of this size can tell at all.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from study.errors import StudyError
from study.files import replacing
from study.measures import dice
from study.models import ESCNN_MODELS, LAYERS, MODELS, native_counterpart
from study.trials import Trial, diverged_trials, read_records

PAPER_DICE = {
    "unet": {0.125: 74.2, 0.25: 77.6, 0.5: 78.5, 1.0: 79.8},
    "p4": {1.0: 82.5},
    "p4m": {0.125: 79.6, 0.25: 81.6, 0.5: 82.1, 1.0: 83.7},
}
"""Dice in % as published (Linmans et al. 2018, Table 1), on Camelyon16; P4 only on all of the data."""

BOOTSTRAP_DRAWS = 2000


def load_records(folder: Path | str) -> list[dict]:
    """The records of a study's results folder, in the order of models, data regimes and seeds.

    Raises:
        StudyError: if there are none, one is damaged, or they are not of one study: of other settings or data.
    """
    order = list(MODELS)
    records = sorted(
        read_records(Path(folder)),
        key=lambda r: (order.index(r["trial"]["model"]), r["trial"]["fraction"], r["trial"]["seed"]),
    )
    for record in records:
        if _study_of(record) != _study_of(records[0]):
            names = [Trial(**r["trial"]).name for r in (records[0], record)]
            raise StudyError(
                f"{folder}: the trials {names[0]} and {names[1]} differ in settings or data; run `reproduce` to its "
                "end, or remove one of them"
            )
    return records


def _study_of(record: dict) -> tuple[dict, dict]:
    """What the records of one study agree in: all settings but the learning rate, which models may differ in."""
    return record["settings"] | {"learning_rate": None}, record["data"]


def trial_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per trial: what it was, its numbers, its settings, its data, and its provenance."""
    sections = ("trial", "metrics", "settings", "data", "provenance")
    return pd.DataFrame([{k: v for name in sections for k, v in record[name].items()} for record in records])


def summary_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per model and data regime.

    Columns: ``model``, ``fraction``, ``seeds``, ``training_patches``, ``dice`` (%, pooled over pixels, mean over
    seeds), ``dice_sd`` (over seeds; empty for one seed), ``dice_low`` and ``dice_high`` (95 % interval over test
    cases), ``dice_per_patch`` (%), ``deviation``, ``deviation_max``, ``changed`` (%), ``parameters``, ``gain``,
    ``gain_low``, ``gain_high`` (Dice above the U-Net's on the same data, in points, with the paired interval over
    cases) and ``paper_dice`` (%).
    """
    groups = _groups(records)
    rows = []
    for (model, fraction), group in groups.items():
        trials = trial_rows(group)
        row = {
            "model": model,
            "fraction": fraction,
            "seeds": len(trials),
            "training_patches": trials.training_patches.iloc[0],
            "dice": 100 * trials.dice.mean(),
            "dice_sd": 100 * trials.dice.std(),
            **_interval("dice", _bootstrap_dice(group)),
            "dice_per_patch": 100 * trials.dice_per_patch.astype(float).mean(),
            "deviation": trials.deviation.mean(),
            "deviation_max": trials.deviation_max.max(),
            "changed": 100 * trials.changed.mean(),
            "parameters": trials.parameters.iloc[0],
            "paper_dice": PAPER_DICE.get(model, {}).get(fraction, np.nan),
        }
        rows.append(row | _difference("gain", group, groups.get(("unet", fraction), [])))
    return pd.DataFrame(rows)


def _difference(name: str, records: list[dict], baseline: list[dict]) -> dict[str, float]:
    """The Dice above the baseline's, in points, over the seeds that both have, with the paired interval over cases."""
    seeds = {r["trial"]["seed"] for r in records} & {r["trial"]["seed"] for r in baseline}
    if not seeds:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    ours, theirs = ([r for r in group if r["trial"]["seed"] in seeds] for group in (records, baseline))
    means = [100 * trial_rows(group).dice.mean() for group in (ours, theirs)]
    return {name: means[0] - means[1], **_interval(name, _bootstrap_dice(ours) - _bootstrap_dice(theirs))}


def caption(records: Sequence[dict]) -> str:
    """What the numbers are about, so that nobody takes a synthetic or reduced study for the paper's."""
    settings, data = records[0]["settings"], records[0]["data"]
    source = {
        "miniature Camelyon": "SYNTHETIC slides (miniature Camelyon)",
        "EBHI-SEG": "EBHI-SEG (glands in colorectal biopsies)",  # as it was called before there were two tasks
        "EBHI-SEG, glands": "EBHI-SEG (glands in colorectal biopsies)",
        "EBHI-SEG, cancer": "EBHI-SEG (cancer in colorectal biopsies)",
        "NuInsSeg, nuclei": "NuInsSeg (nuclei in 31 organs)",
    }
    reduced = settings["size"] < 320 or settings["batches_per_epoch"] * settings["batch_size"] < 468 * 64
    seeds = len({record["trial"]["seed"] for record in records})
    cases = len(records[0]["cases"])
    return (
        f"{source.get(data['source'], data['source'])}, {settings['size']} x {settings['size']} px, "
        f"width {settings['width']}, {settings['epochs']} epochs of {settings['batches_per_epoch']} batches "
        f"of {settings['batch_size']}{' (REDUCED from the paper)' * reduced}, {seeds} seed{'s' * (seeds > 1)}; "
        f"{records[0]['metrics']['test_patches']} test patches of {cases} case{'s' * (cases > 1)}; "
        f"data {data['fingerprint']}"
    )


def dice_table(records: Sequence[dict]) -> str:
    """Table 1 in Markdown: Dice (%) by model and data regime, the paper's numbers in a column of their own."""
    summary = summary_rows(records)
    fractions = sorted(summary.fraction.unique())
    columns = [f"{100 * fraction:g} % of the data" for fraction in fractions]
    paper = f"Paper, Camelyon16 ({' / '.join(f'{100 * fraction:g}' for fraction in fractions)} %)"
    lines = [["Model", *columns, paper]]
    for model in summary.model.unique():
        rows = summary[summary.model == model].set_index("fraction")
        published = [PAPER_DICE.get(model, {}).get(fraction) for fraction in fractions]
        lines.append(
            [
                MODELS[model].label,
                *(_dice_text(rows.loc[f]) if f in rows.index else "–" for f in fractions),
                " / ".join("–" if p is None else f"{p:.1f}" for p in published) if any(published) else "–",
            ]
        )
    legend = (
        "Dice in %, pooled over all test pixels: mean ± standard deviation over seeds (where there are several), and "
        "the 95 % interval over test cases in brackets."
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def stability_table(records: Sequence[dict]) -> str:
    """Markdown: what the eight roto-reflections of a patch do to the output, on the largest data regime."""
    summary = summary_rows(records)
    largest = summary[summary.fraction == summary.fraction.max()]
    lines = [["Model", "Mean deviation", "Largest deviation", "Pixels whose decision changes", "Parameters"]]
    for row in largest.itertuples():
        lines.append(
            [
                MODELS[row.model].label,
                f"{row.deviation:.1e}",
                f"{row.deviation_max:.1e}",
                f"{row.changed:.2f} %",
                f"{row.parameters:,}",
            ]
        )
    legend = (
        "Standard deviation of the foreground probability over the eight roto-reflections of each test patch, in "
        f"float32; models trained on {100 * summary.fraction.max():g} % of the data."
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def implementation_rows(records: Sequence[dict]) -> pd.DataFrame:
    """One row per model that is on escnn or has a twin there, and data regime: what the implementation changes.

    Columns: ``native`` (the name of the model from scratch), ``layers`` ("native", "escnn" or "escnn, full basis"),
    ``fraction``, ``seeds``, ``dice`` (%, mean over seeds), ``dice_sd``, ``difference``, ``difference_low``,
    ``difference_high`` (Dice above the native layers', in points, over the seeds that both have, with the paired
    interval over cases), ``deviation`` and ``parameters``.
    """
    groups = _groups(records)
    twins = {native_counterpart(model) for model, _ in groups if model in ESCNN_MODELS}
    rows = []
    for (model, fraction), group in groups.items():
        native = native_counterpart(model)
        if native is None or (model not in ESCNN_MODELS and model not in twins):
            continue
        trials = trial_rows(group)
        baseline = groups.get((native, fraction), []) if model in ESCNN_MODELS else []
        rows.append(
            {
                "native": native,
                "layers": MODELS[model].layers,
                "fraction": fraction,
                "seeds": len(trials),
                "dice": 100 * trials.dice.mean(),
                "dice_sd": 100 * trials.dice.std(),
                **_difference("difference", group, baseline),
                "deviation": trials.deviation.mean(),
                "parameters": trials.parameters.iloc[0],
            }
        )
    return pd.DataFrame(rows)


def implementation_table(records: Sequence[dict]) -> str:
    """Markdown: Dice on escnn above the same network from scratch, by data regime."""
    rows = implementation_rows(records)
    fractions = sorted(rows.fraction.unique())
    lines = [["Model", "Layers", *(f"{100 * f:g} % of the data" for f in fractions), "Deviation", "Parameters"]]
    for native, layers in sorted(set(zip(rows.native, rows.layers, strict=True)), key=_layers_order):
        cells = rows[(rows.native == native) & (rows.layers == layers)]
        by_fraction = cells.set_index("fraction")
        largest = by_fraction.loc[by_fraction.index.max()]
        lines.append(
            [
                MODELS[native].label,
                layers,
                *(_difference_text(by_fraction.loc[f]) if f in by_fraction.index else "–" for f in fractions),
                f"{largest.deviation:.1e}",
                f"{largest.parameters:,.0f}",
            ]
        )
    legend = (
        "Dice in % of the native layers, and on escnn the difference to them in points, over the seeds that both have, "
        "with the paired 95 % interval over test cases; what initial weights leave to chance is not in it. Deviation "
        f"over the eight roto-reflections, on the largest data regime. Seeds on escnn: {_seeds_text(rows)}."
    )
    return f"{caption(records)}\n\n{markdown(lines)}\n\n{legend}\n"


def _layers_order(key: tuple[str, str]) -> tuple[int, int]:
    native, layers = key
    return list(MODELS).index(native), LAYERS.index(layers)


def _seeds_text(rows: pd.DataFrame) -> str:
    seeds = rows[rows.layers != "native"].seeds
    return f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"


def has_escnn(records: Sequence[dict]) -> bool:
    """Whether any trial on escnn has its twin from scratch, on the same data and with the same seed."""
    trials = {Trial(**record["trial"]) for record in records}
    return any(t.model in ESCNN_MODELS and replace(t, model=native_counterpart(t.model)) in trials for t in trials)


def write_tables(results: Path, figures: Path) -> None:
    """Write ``trials.csv`` beside the records, and the tables to the folder of the figures.

    Raises:
        StudyError: if there are no results, or a file cannot be written.
    """
    records = load_records(results)
    texts = {
        results / "trials.csv": trial_rows(records).to_csv(index=False),
        figures / "dice_table.csv": summary_rows(records).to_csv(index=False, float_format="%.6g"),
        figures / "dice_table.md": dice_table(records),
        figures / "stability_table.md": stability_table(records),
    }
    if has_escnn(records):
        texts[figures / "implementation_table.md"] = implementation_table(records)
    if diverged := diverged_trials(results):
        note = f"\nLeft out, as they ended worse than a constant prediction: {'; '.join(map(str, diverged))}.\n"
        texts = {path: text + note * (path.suffix == ".md") for path, text in texts.items()}
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text)


def _groups(records: Sequence[dict]) -> dict[tuple[str, float], list[dict]]:
    groups: dict[tuple[str, float], list[dict]] = {}
    for record in records:
        groups.setdefault((record["trial"]["model"], record["trial"]["fraction"]), []).append(record)
    return groups


def _bootstrap_dice(records: list[dict]) -> np.ndarray:
    """Dice in % over resampled test cases, ``(draws,)``: pooled over each draw's pixels, then averaged over seeds.

    The draws are the same for every model, so that differences between models are paired. One case alone says nothing
    about other cases: its draws are NaN.
    """
    counts = np.array(
        [[record["cases"][case][:3] for case in sorted(record["cases"])] for record in records]
    )  # (seed, case, 3)
    cases = counts.shape[1]
    if cases == 1:
        return np.full(BOOTSTRAP_DRAWS, np.nan)
    weights = np.random.default_rng(0).multinomial(
        cases, np.full(cases, 1 / cases), size=BOOTSTRAP_DRAWS
    )  # (draw, case)
    pooled = weights @ counts  # (seed, draw, 3)
    return 100 * dice(*np.moveaxis(pooled, -1, 0)).mean(axis=0)


def _interval(name: str, draws: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return {f"{name}_low": low, f"{name}_high": high}


def _difference_text(row: pd.Series) -> str:
    if row.layers == "native":
        return f"{row.dice:.1f}"
    if np.isnan(row.difference):
        return "–"
    return f"{row.difference:+.1f} [{row.difference_low:+.1f}, {row.difference_high:+.1f}]"


def _dice_text(row: pd.Series) -> str:
    spread = f" ± {row.dice_sd:.1f}" if row.seeds > 1 else ""
    interval = f" [{row.dice_low:.1f}, {row.dice_high:.1f}]" if np.isfinite(row.dice_low) else ""
    return f"{row.dice:.1f}{spread}{interval}"


def markdown(lines: list[list[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *body])
