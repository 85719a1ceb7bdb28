"""The library compiled from C++: kept, checked before it is loaded, built anew where it is not what was built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study.gconv.fast import compiler

pytestmark = pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="there is no C++ compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and two tiny sources in place of the real ones."""
    sources = []
    for number, name in enumerate(["one", "two"], start=1):
        sources.append(tmp_path / f"{name}.cpp")
        sources[-1].write_text(f'#include <vector>\nextern "C" int {name}() {{ return {number}; }}\n')
    monkeypatch.setattr(compiler, "SOURCES", tuple(sources))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    compiler.load.cache_clear()
    yield tmp_path / "cache" / "equivariant-segmentation-study"
    compiler.load.cache_clear()


def load():
    """As a new process would."""
    compiler.load.cache_clear()
    return compiler.load()


def built(cache: Path) -> Path:
    """The path of a library that was just built."""
    assert load().two() == 2
    (library,) = cache.glob("*.so")
    return library


def damage(path: Path, content: bytes) -> None:
    path.unlink()  # not in place: this process has it mapped
    path.write_bytes(content)


def assert_refused(match: str) -> None:
    with pytest.warns(RuntimeWarning, match=match):
        assert load() is None


def test_all_sources_are_in_one_library_and_compiled_once_which_is_said(cache, capfd):
    library = load()
    assert (library.one(), library.two()) == (1, 2)
    assert capfd.readouterr().err == "compiling one.cpp and two.cpp, once: it takes 2 to 20 seconds ...\n"
    assert load().one() == 1
    assert capfd.readouterr().err == ""
    assert sorted(path.suffix for path in cache.iterdir()) == [".sha256", ".so"]


def test_a_truncated_library_ends_no_process_but_is_built_anew(cache):
    library = built(cache)
    whole = library.read_bytes()
    damage(library, whole[:4096])  # beyond this it is mapped to nothing: SIGBUS, where it is loaded
    program = (
        "import pathlib, sys; from study.gconv.fast import compiler; "
        "compiler.SOURCES = tuple(map(pathlib.Path, sys.argv[1:])); print(compiler.load().two())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, compiler.SOURCES)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(compiler.__file__).parents[3])},
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert library.read_bytes() == whole


def test_a_library_that_is_not_what_was_built_is_built_anew(cache):
    library = built(cache)
    note = library.with_suffix(".sha256")
    whole, noted = library.read_bytes(), note.read_bytes()
    changed = whole.replace(b"two", b"owt")
    for path, content in [
        (library, b""),
        (library, b"no library"),
        (library, changed),
        (note, b"\xff"),
        (note, None),
        (library, None),
    ]:
        path.unlink() if content is None else damage(path, content)
        assert load().two() == 2
        assert (library.read_bytes(), note.read_bytes()) == (whole, noted)


def test_a_changed_source_is_another_library(cache):
    before = built(cache)
    compiler.SOURCES[1].write_text('extern "C" int two() { return 22; }')
    assert load().two() == 22
    assert before.exists()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o000], ids=oct)
def test_nobody_else_can_write_to_what_is_built_whatever_the_umask(cache, umask):
    before = os.umask(umask)
    try:
        library = built(cache)
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (cache, *cache.iterdir()))
    inode = library.stat().st_ino
    assert load().two() == 2
    assert library.stat().st_ino == inode  # and it is not built again


@pytest.mark.parametrize("what", [".so", ".sha256"])
@pytest.mark.parametrize("how", ["group", "others", "link"])
def test_a_file_that_others_can_write_is_not_loaded_but_built_anew(cache, tmp_path, what, how):
    path = built(cache).with_suffix(what)
    if how == "link":
        path.symlink_to(path.rename(tmp_path / "elsewhere"))
    else:
        path.chmod(0o720 if how == "group" else 0o702)
    before = path.lstat().st_ino
    assert load().two() == 2
    assert path.lstat().st_ino != before
    assert path.lstat().st_mode & 0o022 == 0
    assert not path.is_symlink()


@pytest.mark.parametrize("how", ["group", "others", "link", "not ours"])
def test_a_folder_that_others_can_write_is_refused_with_the_remedy(cache, tmp_path, how, monkeypatch):
    built(cache)
    if how == "link":
        cache.symlink_to(cache.rename(tmp_path / "elsewhere"))
    elif how == "not ours":
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    else:
        cache.chmod(0o770 if how == "group" else 0o707)
    assert_refused(r"loaded \(others than you can write .*: chmod go-w, or remove it\); install g\+\+")


def test_a_relative_cache_home_is_ignored(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load().two() == 2
    assert not Path("relative").exists()
    assert list(Path("home/.cache/equivariant-segmentation-study").glob("*.so"))


@pytest.mark.parametrize("variable", ["CXX", "CXX with arguments", "PATH"])
def test_the_path_of_the_compiler_may_have_spaces(cache, tmp_path, variable, monkeypatch):
    real = shutil.which("c++") or shutil.which("g++")
    script = tmp_path / "my compilers" / "c++"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\ntouch {tmp_path}/used\nexec {real} "$@"\n')
    script.chmod(0o755)
    if variable == "PATH":
        monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    else:
        monkeypatch.setenv("CXX", str(script) if variable == "CXX" else f"env '{script}' -DNDEBUG")
    assert load().two() == 2
    assert (tmp_path / "used").exists()


@pytest.mark.parametrize("output", [r"one.cpp: error: \377\376", r"\377", r" \n", ""])
def test_a_failing_compiler_may_say_what_it_likes(cache, tmp_path, output, monkeypatch):
    script = tmp_path / "c++"
    script.write_text(f"#!/bin/sh\nprintf '{output}' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert_refused(r"one.cpp and two.cpp could not be compiled .*\(.+\); install g\+\+")
    assert list(cache.iterdir()) == []


def test_a_command_that_cannot_be_read_is_reported(cache, monkeypatch):
    monkeypatch.setenv("CXX", "g++ 'unfinished")
    assert_refused("No closing quotation")
