"""Where trials run changes no number, and whatever happens to one of them costs nothing else."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import psutil
import pytest
import torch
from data_helpers import assert_refused, contents
from distributed import LocalCluster
from grid_helpers import Notes, figures, numbers, records
from rich.console import Console

import study
from study import dask_client
from study.cli.live import LiveTable, duration
from study.errors import StudyError
from study.experiments import grid, training
from study.experiments.estimate import outlook, recorded_cost, timed_cost, together
from study.experiments.grid import open_place, run_grid, run_trials, side_by_side
from study.experiments.maps import are_maps_of
from study.experiments.records import Trial, write_record
from study.experiments.trials import Study, run_trial
from study.networks.checkpoint import load_checkpoint, save_tensors

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains one trial after another")


@pytest.fixture
def tiny(study) -> Study:
    """Four trials of some epochs, good enough for tables and figures."""
    recipe = replace(study.preset.recipe, epochs=3, batches_per_epoch=4, learning_rate=0.01)
    return replace(study, preset=replace(study.preset, recipe=recipe))


def at(tiny: Study, root: Path) -> Study:
    return replace(tiny, root=root)


@pytest.fixture
def undisturbed(tiny, tmp_path) -> Study:
    """The same study, run in this process."""
    one = at(tiny, tmp_path / "undisturbed")
    with open_place("32-true", 4, workers=1) as place:
        assert run_grid(one, one.trials(), place, Notes()) == {}
    return one


# --- where ---


@pytest.mark.slow
@on_a_cpu
@pytest.mark.parametrize("workers", [2, 4])
def test_no_bit_depends_on_the_number_of_workers(tiny, undisturbed, tmp_path, workers):
    many, notes = at(tiny, tmp_path / "many"), Notes()
    with open_place("32-true", 4, workers=workers) as place:
        assert run_grid(many, many.trials(), place, notes) == {}
    assert records(many) == records(undisturbed)
    assert len(records(many)) == 4
    assert figures(many.root) == figures(undisturbed.root)
    assert {numbers(r)["metrics"]["dice"] for r in notes.records.values()} == {
        record["metrics"]["dice"] for record in records(many).values()
    }
    assert {r["provenance"]["threads"] for r in notes.records.values()} == {1}


def test_in_this_process_a_trial_has_one_thread_and_later_work_has_what_it_had(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "run_trial", lambda *_, **__: seen.append(torch.get_num_threads()) or {})
    monkeypatch.setattr(Notes, "finished", lambda *_: None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with open_place("32-true", 1, workers=1) as place:
            run_trials(tiny, tiny.trials()[:1], place, Notes())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1 if place.fabric.device.type == "cpu" else 2]


@on_a_cpu
def test_as_many_trials_run_at_a_time_as_there_are_cores_or_trials(monkeypatch):
    monkeypatch.setattr(grid, "CPU_COUNT", 6)
    assert side_by_side(4) == 4
    assert side_by_side(100) == 6
    assert side_by_side(100, workers=3) == 3
    assert side_by_side(0) == 1
    assert side_by_side(100, devices=2) == 1


def test_places_that_contradict_each_other_are_refused(monkeypatch):
    with assert_refused("--devices", "leave out"):
        side_by_side(4, devices=2, workers=2)
    with assert_refused("--workers", "--scheduler"):
        side_by_side(4, workers=2, scheduler="tcp://127.0.0.1:9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert side_by_side(4) == 1
    with assert_refused("--workers", "CUDA_VISIBLE_DEVICES="):
        side_by_side(4, workers=2)


@pytest.mark.slow
@on_a_cpu
def test_on_a_cluster_numbers_are_the_same_and_trials_that_nobody_waits_for_any_more_stop(tiny, undisturbed, tmp_path):
    long = replace(tiny, name="long", preset=replace(tiny.preset, recipe=replace(tiny.preset.recipe, epochs=10**5)))
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        remote = at(tiny, tmp_path / "remote")
        with open_place("32-true", 4, scheduler=cluster.scheduler_address) as place:
            assert run_grid(remote, remote.trials(), place, Notes()) == {}
        assert records(remote) == records(undisturbed)
        assert figures(remote.root) == figures(undisturbed.root)

        began = Event()
        notes = Notes()
        notes.progress = lambda trial, row: began.set() if row and row["epoch"] > 1 else None
        with ThreadPoolExecutor(1) as pool, open_place("32-true", 1, scheduler=cluster.scheduler_address) as place:
            running = pool.submit(run_trials, long, long.trials()[:1], place, notes)
            assert began.wait(60)
            place.client.close()
            with suppress(Exception):
                running.result()
        last = long.run_folder(long.trials()[0]) / "last.pt"
        time.sleep(2)
        state = last.read_bytes()
        time.sleep(1)
        assert last.read_bytes() == state


# --- what goes wrong ---


def test_a_trial_that_fails_is_named_and_the_others_go_on(tiny, monkeypatch):
    def fails_for_some(study, trial, fabric, **kwargs):
        if trial == Trial("p4m", 0.5, 0):
            raise StudyError("the disk is full")
        if trial == Trial("unet", 1.0, 0):
            raise RuntimeError("a bug\nwith details")
        return run_trial(study, trial, fabric, **kwargs)

    monkeypatch.setattr(grid, "run_trial", fails_for_some)
    notes = Notes()
    with open_place("32-true", 4, workers=1) as place:
        failed = run_grid(tiny, tiny.trials(), place, notes)
    assert failed == {Trial("p4m", 0.5, 0): "the disk is full", Trial("unet", 1.0, 0): "RuntimeError: a bug"}
    assert notes.failures == failed
    assert set(records(tiny)) == {"unet-50-0", "p4m-100-0"}


def test_a_loss_that_is_no_longer_finite_is_a_failed_trial(tiny, monkeypatch):
    monkeypatch.setattr(training, "validate", lambda *_: {"validation_loss": float("nan"), "validation_dice": 0.0})
    with open_place("32-true", 1, workers=1) as place:
        failed = run_trials(tiny, tiny.trials()[:1], place, Notes())
    assert "lower learning_rate" in failed[tiny.trials()[0]]


def workers_of(process: int) -> list[psutil.Process]:
    """Dask's nannies start them, with a command line of multiprocessing's."""
    try:
        return [c for c in psutil.Process(process).children() if "spawn_main" in " ".join(c.cmdline())]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.slow
@on_a_cpu
def test_a_worker_that_dies_costs_an_epoch_and_no_number(tiny, undisturbed, tmp_path, monkeypatch):
    killed, notes = at(tiny, tmp_path / "killed"), Notes()
    first = killed.trials()[0]

    def progress(trial, row):
        notes.epochs.append((trial, row and row["epoch"]))
        if notes.epochs.count((first, 1)) == 1 and trial == first and row and row["epoch"] == 1:
            for worker in workers_of(os.getpid()):
                worker.kill()

    notes.progress = progress
    monkeypatch.setattr(grid, "side_by_side", lambda *_, **__: 2)
    with open_place("32-true", 4) as place:
        assert run_grid(killed, killed.trials(), place, notes) == {}
    assert records(killed) == records(undisturbed)
    assert figures(killed.root) == figures(undisturbed.root)
    assert notes.epochs.count((first, None)) == 2  # it began twice,
    assert notes.epochs.count((first, 0)) == 1  # and its first epochs were not repeated


def start(store, root: Path, *arguments: str) -> subprocess.Popen:
    """A long study on two workers, in a session of its own, as soon as its trials are at work."""
    settings = "size=16 width=4 depth=1 batch_size=4 batches_per_epoch=2 fractions=1 models=unet,p4 epochs=100000"
    command = [sys.executable, "-m", "study", "reproduce", "--preset", "miniature", "--data", str(store.path)]
    command += [part for setting in settings.split() for part in ("--set", setting)]
    command += ["--name", "long", "--root", str(root), "--workers", "2", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(study.__file__).parents[1])}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(root.glob("runs/long/*/last.pt"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


@pytest.mark.slow
@on_a_cpu
def test_a_grid_that_is_killed_leaves_nothing_at_work(store, tmp_path):
    process = start(store, tmp_path)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


@pytest.mark.slow
@on_a_cpu
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_takes_seconds_and_one_line(store, tmp_path, number, code):
    process = start(store, tmp_path)
    workers = workers_of(process.pid)
    os.killpg(process.pid, number)  # a terminal sends SIGINT to the whole group, and so may a scheduler SIGTERM
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert error == "interrupted; run the same command again to continue\n"
    assert not [worker for worker in workers if worker.is_running()]


def test_an_interrupt_while_processes_start_is_heard_when_they_have_started_and_never_by_them():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("here"))
    try:
        with dask_client.deaf_to_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('goes on')"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert (child.stdout, child.stderr) == ("goes on\n", "")
            assert heard == []
        assert heard == ["here"]
        os.kill(os.getpid(), signal.SIGINT)
        assert heard == ["here", "here"]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@on_a_cpu
def test_nothing_that_dask_logs_reaches_the_terminal():
    code = (
        "import logging\nfrom study.dask_client import dask_client\n"
        "def shout(): logging.getLogger('distributed.scheduler').critical('as when Ctrl-C closes a client')\n"
        "if __name__ == '__main__':\n"
        "    with dask_client(1) as client: shout(), client.submit(shout).result()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")


# --- the maps of the networks ---


def test_maps_are_made_once_and_again_for_other_weights(tiny):
    with open_place("32-true", 4, workers=1) as place:
        run_grid(tiny, tiny.trials(), place, Notes())
        maps = tiny.root / "results/tiny/stability_maps.npz"
        made = maps.stat().st_mtime_ns
        run_grid(tiny, [], place, Notes())
        assert maps.stat().st_mtime_ns == made
        unet, p4m = (tiny.checkpoint_path(Trial(model, 1.0, 0)) for model in ("unet", "p4m"))
        assert are_maps_of(maps, tiny.store, unet=unet, p4m=p4m)
        other = SimpleNamespace(fingerprint="of other patches")
        assert not are_maps_of(maps, other, unet=unet, p4m=p4m)
        checkpoint = tiny.checkpoint_path(Trial("unet", 1.0, 0))
        content = load_checkpoint(checkpoint)
        next(iter(content["weights"].values())).mul_(2)
        save_tensors(checkpoint, content)
        run_grid(tiny, [], place, Notes())
        assert maps.stat().st_mtime_ns > made


@pytest.mark.parametrize(
    ("there", "unet"),
    [
        (["unet-12.5-0", "unet-100-0", "unet-aug-12.5-0", "unet-aug-100-0"], "unet-aug-100-0"),
        (["unet-12.5-0", "unet-100-0", "unet-aug-12.5-0"], "unet-100-0"),
        (["unet-12.5-0", "unet-aug-12.5-0"], "unet-aug-12.5-0"),
    ],
)
def test_the_maps_are_of_the_largest_regime_and_there_of_the_augmented_unet(there, unet, monkeypatch, tmp_path):
    trials = [Trial(model, f, 0) for model in ("unet", "unet-aug", "p4m") for f in (0.125, 1.0)]
    study = SimpleNamespace(
        **{"root": tmp_path, "name": "any", "store": None, "task": None},
        trials=lambda: trials,
        seeds_here=lambda: [0],
        has_weights=lambda trial: trial.name in there or trial.model == "p4m",
        has_diverged=lambda trial: False,
        checkpoint_path=lambda trial: Path(trial.name),
        split=lambda trial: SimpleNamespace(test=[]),
    )
    made = {}
    monkeypatch.setattr(grid, "are_maps_of", lambda path, store, **networks: False)
    monkeypatch.setattr(grid, "save_stability_maps", lambda path, store, test, **networks: made.update(networks))
    grid.save_maps(study, torch.device("cpu"))
    assert (made["unet"].name, made["p4m"].name) == (unet, unet.replace("unet-aug", "p4m").replace("unet", "p4m"))


def test_what_killed_runs_left_is_removed_and_what_others_need_is_not(tiny, fabric):
    done, other = tiny.trials()[:2]
    run_trial(tiny, done, fabric)
    results = tiny.record_path(done).parent
    half = [tiny.run_folder(done) / ".last.pt.1.partial", results / f".{done.name}.json.1.partial"]
    keep = [results / f".{done.name}1.json.1.partial", tiny.run_folder(other) / "last.pt"]
    left = tiny.run_folder(done) / "last.pt"
    for path in (*half, *keep, left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for trial in (done, other):
        tiny.tidy(trial)
    assert not any(path.exists() for path in (*half, left))
    assert all(path.exists() for path in keep)


# --- beforehand ---


def test_an_outlook_tells_what_is_done_what_has_begun_and_what_is_to_do(tiny, fabric):
    done, begun, *_ = trials = tiny.trials()
    run_trial(tiny, done, fabric)

    def cut(row):
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(tiny, begun, fabric, log=cut)
    before = contents(tiny.root)
    rows = outlook(tiny, [t for t in trials if not tiny.is_done(t)], torch.device("cpu"))
    assert contents(tiny.root) == before
    assert [row.trial for row in rows] == trials
    assert [row.done for row in rows] == [True, False, False, False]
    assert [row.epochs for row in rows] == [3, 2, 0, 0]
    assert [row.basis for row in rows] == ["", "timed here", "1 record", "timed here"]
    assert rows[0].seconds == 0
    assert 0 < rows[1].seconds < rows[3].seconds


def test_times_are_those_of_such_trials_on_such_a_machine(tiny, fabric):
    for trial in tiny.trials()[:3:2]:
        record = run_trial(tiny, trial, fabric)
        record["metrics"] |= {"training_seconds": 100 * trial.fraction, "evaluation_seconds": 7.0}
        write_record(tiny.record_path(trial), record)
    cpu = torch.device("cpu")
    cost = recorded_cost(tiny, Trial("unet", 0.25, 9), cpu)
    assert (cost.training, cost.evaluation, cost.basis) == (75, 7, "2 records")
    assert recorded_cost(tiny, Trial("p4m", 0.25, 9), cpu) is None
    record["provenance"]["hardware"] = "another"
    write_record(tiny.record_path(trial), record)
    assert recorded_cost(tiny, trial, cpu).basis == "1 record"


def test_before_there_are_data_all_is_to_do_and_the_training_is_timed(tiny):
    nothing = replace(tiny, store=None)
    cost, whole = (timed_cost(one, tiny.trials()[0], torch.device("cpu")) for one in (nothing, tiny))
    assert cost.evaluation == 0 < whole.evaluation
    assert not any(row.done for row in outlook(nothing, nothing.trials(), torch.device("cpu")))


def test_each_worker_takes_the_next_trial_when_it_is_free():
    assert together([3, 1, 1, 1, 4], 2) == 7
    assert together([3, 1, 1, 1, 4], 1) == 10
    assert together([], 2) == 0


# --- what a person sees ---


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min")]
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


ROW = {"epoch": 0, "train_loss": 0.4567, "validation_dice": 0.812, "seconds": 30.0}


def test_without_a_terminal_there_is_a_line_for_each_epoch_and_each_trial_that_ends(tiny):
    output = StringIO()
    first, second, third, _ = tiny.trials()
    metrics = {"dice": 0.9, "deviation": 1e-7, "training_seconds": 12.0, "train_loss": 0.9, "constant_loss": 0.6}
    with LiveTable(tiny, tiny.trials(), Console(file=output, width=60)) as table:
        table.progress(first, None)
        table.progress(first, ROW)
        table.finished(first, {"metrics": metrics})
        table.failed(second, "the disk is full")
        table.finished(third, {"metrics": metrics | {"diverged": True}})
    assert output.getvalue().splitlines() == [
        f"{first.name}: epoch 1 of 3, training loss 0.457, validation Dice 81.2 %",
        f"1/4  {first}: Dice 90.0 %, standard deviation over roto-reflections 1.0e-07, 12 s",
        f"2/4  {second}: FAILED: the disk is full",
        f"3/4  {third}: DIVERGED, training loss 0.90, a constant's 0.60",
    ]


def test_in_a_terminal_the_trials_that_run_stand_in_a_table(tiny):
    output = StringIO()
    console = Console(file=output, width=100, force_terminal=True)
    first, second, *_ = tiny.trials()
    table = LiveTable(tiny, tiny.trials(), console)
    table.progress(first, None)
    table.progress(first, ROW)
    table.progress(second, None)
    console.print(table)
    shown = output.getvalue()
    assert "0 of 4 trials done, 2 running" in shown
    assert all(cell in shown for cell in (first.name, "1 of 3", "0.457", "81.2 %", "1 min", second.name, "starting"))
    table.failed(first, "a reason")
    table.progress(first, ROW)  # a report that comes late
    output.truncate(0)
    console.print(table)
    assert first.name not in output.getvalue()
