"""A file is replaced whole or not at all, and what the user can mend is said in one line."""

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from data_helpers import assert_refused, contents

from study.files import remove_half_written, replacing, require_space
from study.networks.checkpoint import save_tensors


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "kept" / "result.txt"
    path.parent.mkdir()
    path.write_text("old")
    return path


def write(path):
    with replacing(path) as temporary:
        temporary.write_text("new")


def test_success_replaces_the_old_file_and_leaves_nothing_else(path):
    write(path)
    assert contents(path.parent) == {"result.txt": b"new"}


def test_folders_are_made_and_a_path_may_be_text(tmp_path):
    write(str(tmp_path / "a" / "b" / "c.txt"))
    assert contents(tmp_path) == {"a/b/c.txt": b"new"}


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    def fail(temporary: Path) -> None:
        (temporary / "images").mkdir(parents=True)
        raise KeyError

    with pytest.raises(KeyError), replacing(tmp_path / "slides") as temporary:
        fail(temporary)
    assert contents(tmp_path) == {}
    with replacing(tmp_path / "slides") as temporary:
        temporary.mkdir()
    assert (tmp_path / "slides").is_dir()


def test_what_a_kill_left_is_removed_files_and_folders(tmp_path):
    (tmp_path / ".slides.0123.partial/images").mkdir(parents=True)
    (tmp_path / ".record.json.0123.partial").touch()
    remove_half_written(tmp_path, "slides")
    assert [path.name for path in tmp_path.iterdir()] == [".record.json.0123.partial"]
    remove_half_written(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_reader_sees_the_old_file_until_the_block_ends(path):
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, FileNotFoundError, KeyboardInterrupt])
def test_any_other_exception_passes_and_leaves_the_old_file_and_no_temporary(path, error):
    with pytest.raises(error) as caught, replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error("stop")
    assert type(caught.value) is error
    assert contents(path.parent) == {"result.txt": b"old"}


def test_an_exception_before_anything_is_written_leaves_the_old_file(path):
    with pytest.raises(ValueError, match="stop"), replacing(path):
        raise ValueError("stop")
    assert contents(path.parent) == {"result.txt": b"old"}


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (OSError("Can't write data (file write failed: errno = 28, error message = 'No space left')"), "free some"),
        (RuntimeError("Can't decrement id ref count (errno = 28, file write failed)"), "free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "choose a folder"),
        (OSError(errno.EROFS, "Read-only file system"), "choose another folder"),
    ],
    ids=["no space", "h5py writing", "h5py closing", "no permission", "read-only"],
)
def test_what_the_user_can_mend_is_one_line_with_path_and_remedy(path, error, remedy):
    with assert_refused(path, remedy), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert contents(path.parent) == {"result.txt": b"old"}


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(100_000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
@pytest.mark.parametrize(
    "fill",
    [
        lambda path: path.write_text("new"),
        write_hdf5,
    ],
    ids=["text", "hdf5"],
)
def test_a_disk_that_is_really_full_is_recognised_whoever_writes(path, fill):
    with assert_refused(path, "free some space"), replacing(path) as temporary:
        temporary.symlink_to("/dev/full")
        fill(temporary)
    assert contents(path.parent) == {"result.txt": b"old"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(path):
    path.parent.chmod(0o500)
    try:
        with assert_refused(path, "choose a folder"):
            write(path)
    finally:
        path.parent.chmod(0o700)
    assert contents(path.parent) == {"result.txt": b"old"}


@pytest.mark.parametrize("below", ["x.txt", "folder/x.txt"])
def test_a_file_where_a_folder_should_be_is_refused(path, below):
    with assert_refused(path / below, "part of the path is a file"):
        write(path / below)
    assert contents(path.parent) == {"result.txt": b"old"}


def test_a_folder_where_the_file_should_be_is_refused(path):
    with assert_refused(path.parent, "it is a folder"):
        write(path.parent)
    assert contents(path.parent.parent) == {"kept/result.txt": b"old"}


@pytest.mark.parametrize("count", [3, 100_000])
def test_tensors_come_back_and_a_full_disk_is_recognised_while_they_are_written(path, monkeypatch, count):
    save_tensors(path, {"weights": torch.arange(count)})
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(count))
    old = contents(path.parent)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with assert_refused(path, "free some space"):
        save_tensors(path, {"weights": torch.zeros(count)})
    assert contents(path.parent) == old


def test_space_is_asked_for_before_a_library_that_cannot_do_without(path):
    require_space(path, 1)
    with assert_refused(path, "free some space"):
        require_space(path, 2**60)
