"""``python -m study tune``: choose each model's learning rate on validation data."""

from pathlib import Path
from typing import Annotated

import typer

from study.cli.interruption import interruptible
from study.cli.studies import MODEL, Changes, Data, Name, PresetName, Root
from study.errors import StudyError
from study.experiments.presets import check_grid


@interruptible()
def tune_rates(
    models: Annotated[list[str], typer.Argument(help=MODEL, metavar="MODEL", show_default=False)],
    preset: PresetName = "ebhi-cancer",
    fraction: Annotated[list[float], typer.Option(help="Share of the training data; can be repeated.")] = (0.125,),
    seed: Annotated[list[int], typer.Option(help="Seed that no trial has; can be repeated.")] = (100, 101),
    data: Data = None,
    changes: Changes = (),
    name: Name = None,
    root: Root = Path(),
) -> None:
    """Choose the learning rates of models on the validation patches; test patches are not used.

    The command can be interrupted at any moment and continues when it is run again. Each run is a training with one
    thread.
    """
    from study.cli.show import show_table
    from study.devices import launch_fabric, one_thread
    from study.experiments.opening import open_study
    from study.experiments.records import results_folder
    from study.experiments.tuning import RATES, chosen_rates, runs, tune, tuning_rows
    from study.networks.models import MODELS

    check_grid(models, fraction, seed)
    study = open_study(preset, data, changes, name, root, devices=1)
    if used := {trial.seed for trial in study.trials()} & set(seed):
        raise StudyError(f"seed {min(used)} is of a trial, whose test patches a tuning would see; give others")
    fabric = launch_fabric(study.preset.recipe.precision)
    with one_thread():  # as trials have on a CPU
        for run in runs(models, fraction, seed):
            last = tune(study, run, fabric)["history"][-1]
            print(f"{run.name}: validation Dice {100 * last['validation_dice']:.1f} %", flush=True)
    rows = tuning_rows(results_folder(root, study.name))
    rows = rows[rows.model.isin(models) & rows.fraction.isin(fraction) & rows.seed.isin(seed)]
    chosen = chosen_rates(rows)
    lines = []
    for model, own in rows.groupby("model"):
        means = own.groupby("learning_rate").dice.mean()
        lines.append([MODELS[model].label, *(f"{100 * means[rate]:.1f}" for rate in RATES), f"{chosen[model]:g}"])
    head = ["Model", *(f"{rate:g}" for rate in RATES), "Chosen"]
    show_table(head, lines, "Validation Dice (%) by learning rate")
