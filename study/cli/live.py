"""The trials of a study on the screen: a table of them before they run, and their progress."""

from collections.abc import Mapping, Sequence
from statistics import mean
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.experiments.estimate import Outlook, together
from study.experiments.records import Trial, is_diverged
from study.experiments.trials import Study
from study.networks.models import MODELS


class LiveTable:
    """The progress of a study: in a terminal a live table of the running trials, elsewhere a line for each epoch.

    In both, a line for each trial that ends.

    It is a :class:`~study.experiments.grid.Watcher`, and a context manager that shows and removes the table.
    """

    def __init__(self, study: Study, todo: Sequence[Trial], console: Console) -> None:
        self._study, self._console = study.name, console
        self._epochs = study.preset.recipe.epochs
        self._count = len(todo)
        self._running: dict[Trial, list[dict]] = {}  # the rows of this call, by trial
        self._ended: set[Trial] = set()
        self._began = monotonic()
        self._seen = 0  # epochs of this call
        self._live = Live(self, console=console, transient=True, refresh_per_second=2)

    def __enter__(self) -> "LiveTable":
        if self._console.is_terminal and self._count:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, trial: Trial, row: dict | None) -> None:
        if trial in self._ended:  # reports and results of another process arrive in any order
            return
        if row is None:
            self._running[trial] = []
            return
        rows = self._running.setdefault(trial, [])
        rows.append(row)
        self._seen += 1
        if not self._console.is_terminal:
            epoch, loss, dice, _ = self._cells(rows)
            self.say(f"{trial.name}: epoch {epoch}, training loss {loss}, validation Dice {dice}")

    def finished(self, trial: Trial, record: dict) -> None:
        metrics = record["metrics"]
        text = (
            f"Dice {100 * metrics['dice']:.1f} %, standard deviation over roto-reflections {metrics['deviation']:.1e}, "
            f"{metrics['training_seconds']:.0f} s"
        )
        if is_diverged(record):
            text = f"DIVERGED, training loss {metrics['train_loss']:.2f}, a constant's {metrics['constant_loss']:.2f}"
        self._end(trial, text)

    def failed(self, trial: Trial, why: str) -> None:
        self._end(trial, f"FAILED: {why}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _end(self, trial: Trial, text: str) -> None:
        self._ended.add(trial)
        self._running.pop(trial, None)
        self.say(f"{len(self._ended)}/{self._count}  {trial}: {text}")

    def __rich__(self) -> Group:
        table = Table("Trial", "Epoch", "Training loss", "Validation Dice", "Time left")
        for trial, rows in list(self._running.items()):
            table.add_row(trial.name, *self._cells(list(rows)))
        return Group(Text(self._headline()), table)

    def _headline(self) -> str:
        done = sum(rows[-1]["epoch"] + 1 for rows in list(self._running.values()) if rows)
        todo = (self._count - len(self._ended)) * self._epochs - done
        left = f", about {duration((monotonic() - self._began) * todo / self._seen)} left" if self._seen else ""
        return f"{self._study}: {len(self._ended)} of {self._count} trials done, {len(self._running)} running{left}"

    def _cells(self, rows: list[dict]) -> list[str]:
        if not rows:
            return ["starting", "", "", ""]
        last = rows[-1]
        done = last["epoch"] + 1
        left = (self._epochs - done) * mean(row["seconds"] for row in rows)
        return [
            f"{done} of {self._epochs}",
            f"{last['train_loss']:.3f}",
            f"{100 * last['validation_dice']:.1f} %",
            duration(left) if left else "evaluating",
        ]


def show_outlook(rows: Sequence[Outlook], study: Study, workers: int, console: Console) -> None:
    """Print the trials of a study, the state of each, and the estimated time of the rest."""
    epochs = study.preset.recipe.epochs
    table = Table("Model", "Share of the data", "Seed", "State", "Time", "Estimated from", title=study.name)
    for row in rows:
        state = "to do" if not row.epochs else f"interrupted after epoch {row.epochs} of {epochs}"
        table.add_row(
            MODELS[row.trial.model].label,
            f"{100 * row.trial.fraction:g} %",
            f"{row.trial.seed}",
            "done" if row.done else state,
            "" if row.done else duration(row.seconds),
            row.basis,
        )
    console.print(table)
    todo = [row.seconds for row in rows if not row.done]
    text = f"{len(todo)} of {len(rows)} trials to run"
    if todo:
        side_by_side = f"{workers} at a time" if workers > 1 else "one at a time"
        text += f", about {duration(together(todo, workers))}, {side_by_side}"
    if study.store is None:
        text += (
            "; the data are not prepared yet, so records are compared by their settings alone, and the times exclude "
            "preparation, validation and evaluation"
        )
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_contents(lines: Mapping[str, str], console: Console) -> None:
    """Print what each table and figure of a study shows."""
    table = Table("File", "What it shows")
    for name, text in lines.items():
        table.add_row(name, text)
    console.print(table)


def duration(seconds: float) -> str:
    """For people: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
