"""A flipped bit in what a study wrote is noticed, or changes nothing: never another number."""

import json
import random
import warnings

import pytest
import torch
from record_helpers import CASES, record

from study.errors import StudyError, StudyNotice
from study.experiments import records
from study.experiments.records import read_record, write_record
from study.experiments.training import Progress, epochs_done
from study.experiments.tuning import read_run
from study.networks.checkpoint import load_checkpoint, save_checkpoint
from study.networks.models import MODELS


def flipped(content: bytes, count: int):
    """The content with one bit of it flipped, ``count`` times another one."""
    chance = random.Random(0)
    for _ in range(count):
        bit = chance.randrange(8 * len(content))
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_the_same(tmp_path):
    architecture = MODELS["p4"].architecture(width=4, depth=1, num_classes=1)
    path = tmp_path / "best.pt"
    save_checkpoint(path, architecture, architecture.build().state_dict(), settings={"learning_rate": 1e-3})
    content, expected, refused = path.read_bytes(), load_checkpoint(path), 0
    for damaged in flipped(content, 300):
        path.write_bytes(damaged)
        try:
            assert equal(load_checkpoint(path), expected)
        except StudyError:
            refused += 1
    assert refused > 200  # the others are in what a ZIP archive does not use, as times and padding


def test_a_state_with_a_flipped_bit_is_begun_again_with_a_notice_or_the_same(tmp_path):
    network = torch.nn.Conv2d(3, 4, 3)
    optimizer = torch.optim.Adam(network.parameters())

    class Schedule:
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer)

    progress = Progress(network, optimizer, Schedule())
    progress.history, progress.kept, progress.kept_epoch = [{"epoch": 0}], network.state_dict(), 0
    path, settings = tmp_path / "last.pt", {"learning_rate": 1e-3}
    progress.save(path, settings)
    content, expected, noticed = path.read_bytes(), {**network.state_dict()}, 0
    for damaged in flipped(content, 200):
        path.write_bytes(damaged)
        other = torch.nn.Conv2d(3, 4, 3)
        found = Progress(other, torch.optim.Adam(other.parameters()), Schedule())
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always")
            found.restore(path, settings)
        if notices:
            assert notices[0].category is StudyNotice
            assert "last.pt is damaged; the training starts from the beginning" in str(notices[0].message)
            assert found.history == []
            assert epochs_done(tmp_path) == 0
            noticed += 1
        else:
            assert found.history == progress.history
            assert equal(dict(other.state_dict()), expected)
    assert noticed > 100


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "p4m-100-0.json"
    write_record(path, record("p4m", 1.0, 0, CASES, training_seconds=1.25))
    return path


@pytest.mark.filterwarnings("ignore:there are records without a checksum")  # where the flipped bit is in its name
def test_a_record_with_a_flipped_bit_is_refused_or_the_same(path):
    content, expected, refused = path.read_bytes(), read_record(path), 0
    for damaged in flipped(content, 1000):
        path.write_bytes(damaged)
        try:
            found = read_record(path)
            assert {key: found[key] for key in expected} == expected
        except StudyError:
            refused += 1
    assert refused > 700  # the others are in the spaces between


def test_a_record_comes_back_as_it_was_and_its_layout_may_change(path):
    before = record("p4m", 1.0, 0, CASES, training_seconds=1.25)
    assert read_record(path) == before
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert read_record(path) == before
    write_record(path, before | {"history": [{"loss": float("nan"), "pair": (1, 2)}]})
    assert read_record(path)["history"][0]["pair"] == [1, 2]


def test_records_from_before_there_were_checksums_are_read_with_one_notice(path, monkeypatch):
    monkeypatch.setattr(records, "__warningregistry__", {}, raising=False)
    old = json.loads(path.read_text())
    del old[records.CHECKSUM]
    others = [path.with_name(f"p4m-100-{seed}.json") for seed in range(3)]
    for other in others:
        other.write_text(json.dumps(old))
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("default")
        assert all(read_record(other) == old for other in others)
    assert [str(notice.message).split(":")[0] for notice in notices] == [
        f"there are records without a checksum in {path.parent}"
    ]


def test_a_tuning_run_that_was_changed_by_hand_is_refused(tmp_path):
    run = {"model": "p4m", "fraction": 0.5, "seed": 100, "learning_rate": 1e-3}
    path = tmp_path / "run.json"
    write_record(path, {"run": run, "history": [{"validation_dice": 0.5}]})
    assert read_run(path)["run"] == run
    path.write_text(path.read_text().replace("0.5}", "0.9}"))
    with pytest.raises(StudyError, match="damaged or no record of a tuning run"):
        read_run(path)
