"""One process at a time, whatever becomes of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import assert_refused

import study
from study.locks import HOLDER, LOCK, only_one

HOLD = """
import sys, pathlib
from study.locks import only_one
with only_one(pathlib.Path(sys.argv[1]), "writes to"):
    print(1, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(study.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"1\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close(), process.stdout.close()


def test_a_second_process_is_told_who_was_first(holder, tmp_path):
    with assert_refused(f"process {holder.pid}", "writes to", tmp_path, "wait"), only_one(tmp_path, "writes to"):
        pass
    holder.communicate(b"end\n")
    with only_one(tmp_path, "writes to"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [LOCK]


def test_a_kill_leaves_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / HOLDER).is_file()
    with only_one(tmp_path, "writes to"):
        pass


@pytest.mark.parametrize("content", ["", "[]", '{"process": 3}'])
def test_a_damaged_note_of_the_holder_costs_only_its_name(holder, tmp_path, content):
    (tmp_path / HOLDER).write_text(content)
    with assert_refused("another process", "writes to"), only_one(tmp_path, "writes to"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with assert_refused(tmp_path / "file", "not a folder"), only_one(tmp_path / "file" / "folder", "writes to"):
        pass


def test_a_link_in_the_place_of_the_lock_is_named_and_not_followed(tmp_path):
    (mine := tmp_path / "mine.txt").write_text("not to be touched")
    (folder := tmp_path / "folder").mkdir()
    (folder / LOCK).symlink_to(mine)
    with assert_refused(folder / LOCK, "is a link; remove it"), only_one(folder, "writes to"):
        pass
    assert mine.read_text() == "not to be touched"
