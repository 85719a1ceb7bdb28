"""Kill a study many times, wherever it is, and see whether a number or a pixel changes.

By hand, as it takes minutes: ``python tests/soak/kill_grid.py``. A small study runs once undisturbed in one process,
and once on several workers, where SIGKILL ends it again and again: in trainings, in evaluations, as results are
written, in the stability maps, in the figures; now the whole process group, now the main process alone, whose workers
must go with it. All records (but times and provenance), tables, figures and maps must be the same, byte for byte.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from data_helpers import make_blobs
from grid_helpers import TIMES, figures, numbers

from study.experiments.records import read_record, record_files
from study.experiments.training import epochs_done

EPOCHS = 6
TRIALS = 12
SHOW_SECONDS = {"costs", "is_it_worth_it"}
"""Tables and figures with the seconds of training, which are others in every run."""

SETTINGS = (
    f"size=32 width=8 depth=2 batch_size=8 epochs={EPOCHS} batches_per_epoch=12 learning_rate=0.003 "
    "models=unet,unet-aug,p4m fractions=0.125,0.25,0.5,1"
)


def start(store: Path, root: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "study", "reproduce", "--preset", "miniature", "--data", str(store)]
    command += [part for setting in SETTINGS.split() for part in ("--set", setting)]
    command += ["--name", "soak", "--root", str(root), "--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)


class Moments:
    """What a running study is at, by the files that this run wrote."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store = root, store
        self.results = root / "results" / "soak"
        self.process: subprocess.Popen | None = None
        self.began = 0.0

    def start(self, workers: int) -> None:
        self.began = time.time()
        self.process = start(self.store, self.root, workers)

    def trials(self) -> dict[str, int]:
        """Of those without a record, the epochs that are done."""
        records = {path.stem for path in record_files(self.results)}
        folders = [path.parent for path in self.root.glob("runs/soak/*/last.pt")]
        return {folder.name: epochs_done(folder) for folder in folders if folder.name not in records}

    def half_written(self) -> list[Path]:
        return [path for path in self.root.rglob(".*.partial") if path.parent.is_dir()]

    def training(self) -> bool:
        return any(0 < done < EPOCHS for done in self._at_work().values())

    def evaluation(self) -> bool:
        return any(done == EPOCHS for done in self._at_work().values())

    def writing(self) -> bool:
        """Weights, states or records are half written, or the weights are there and the record is not."""
        records = {path.stem for path in record_files(self.results)}
        weights = [path for path in self.root.glob("runs/soak/*/best.pt") if path.parent.name not in records]
        return any(map(self._is_new, [*weights, *self.half_written()]))

    def maps(self) -> bool:
        """All trials are done, the maps are not there, and the patches are being read for them."""
        if len(record_files(self.results)) < TRIALS or (self.results / "stability_maps.npz").is_file():
            return False
        processes = [psutil.Process(self.process.pid)]
        return any(file.path == str(self.store) for p in processes + processes[0].children() for file in p.open_files())

    def figures(self) -> bool:
        """A table or figure is there, or half of it."""
        return any(map(self._is_new, self.root.glob("figures/soak/*")))

    def _at_work(self) -> dict[str, int]:
        runs = self.root / "runs/soak"
        return {name: done for name, done in self.trials().items() if self._is_new(runs / name / "last.pt")}

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime > self.began
        except FileNotFoundError:  # by now it has its name, or is no longer needed
            return False


def kill(process: subprocess.Popen, whole_group: bool) -> None:
    """End it, and make sure that nothing of it stays at work."""
    with_it = psutil.Process(process.pid).children(recursive=True)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    _, alive = psutil.wait_procs(with_it, timeout=30)
    if alive:
        sys.exit(f"FAILED: {len(alive)} processes go on without the one that started them")


def interrupt(moments: Moments, name: str, delay: float, workers: int, whole_group: bool) -> str | None:
    """Start the study and kill it some time after a moment has come; returns what it was at, None if it was faster."""
    moments.start(workers)
    arrived = getattr(moments, name)
    with suppress(psutil.NoSuchProcess):
        while moments.process.poll() is None and not arrived():
            time.sleep(0.002)
    time.sleep(delay)
    if moments.process.poll() is not None:
        return None
    kill(moments.process, whole_group)
    at = [f"{trial} after epoch {done} of {EPOCHS}" for trial, done in sorted(moments.trials().items())]
    maps = ["maps"] * (moments.results / "stability_maps.npz").is_file()
    half = [str(path.relative_to(moments.root)) for path in moments.half_written()]
    return "; ".join([f"{len(record_files(moments.results))} records", *maps, *at, *half])


def differences(expected: Path, found: Path) -> list[str]:
    """What is not the same in two studies."""
    differ = []
    for path in record_files(expected / "results/soak"):
        other = found / path.relative_to(expected)
        if not other.is_file() or numbers(read_record(path)) != numbers(read_record(other)):
            differ.append(str(path.relative_to(expected)))
    ours, theirs = (
        {name: content for name, content in figures(root).items() if Path(name).stem not in SHOW_SECONDS}
        for root in (expected, found)
    )
    differ += [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]
    tables = [pd.read_csv(root / "results/soak/trials.csv") for root in (expected, found)]
    if not numbers_of_trials(tables[0]).equals(numbers_of_trials(tables[1])):
        differ.append("results/soak/trials.csv")
    return differ


def numbers_of_trials(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``trials.csv`` that are no times and no provenance, which begins with the command."""
    before = table.loc[:, :"command"].iloc[:, :-1]
    return before.drop(columns=list(TIMES & set(before)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="kills at each kind of moment")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        store = make_blobs(Path(folder) / "blobs.h5", count=1200, size=32).path
        undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
        if start(store, undisturbed, 1).wait() != 0:
            sys.exit("FAILED: the undisturbed study")
        moments, hits = Moments(killed, store), Counter()
        for name in ("training", "evaluation", "writing", "maps", "figures"):
            for n in range(options.rounds):
                whole_group = chance.random() < 0.5
                delay = chance.choice([0, chance.uniform(0, 0.3)])
                at = interrupt(moments, name, delay, options.workers, whole_group)
                hits[name] += at is not None
                target = "process group" if whole_group else "main process"
                print(f"{name} {n + 1}: {target} killed: {at}" if at else f"{name} {n + 1}: it was faster", flush=True)
        if start(store, killed, options.workers).wait() != 0:
            sys.exit("FAILED: the last run, which nobody killed")
        differ = differences(undisturbed, killed)
        left = [str(p.relative_to(killed)) for p in killed.rglob("*") if p.suffix == ".partial" or p.name == "last.pt"]
        files = len(record_files(undisturbed / "results/soak")), len(figures(undisturbed))
    print(f"{hits.total()} kills: {', '.join(f'{count} in {name}' for name, count in hits.items())}")
    print(f"{files[0]} records and {files[1]} tables, figures and maps compared; {len(differ)} differ {differ or ''}")
    print(f"left behind: {left or 'nothing'}")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
