"""Help and errors of spelling: what they say, and that they need none of the packages whose import takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import study
from study import cli
from study.experiments.presets import setting_keys

SLOW_TO_IMPORT = ("torch", "pandas", "scipy", "distributed", "matplotlib", "lightning_fabric", "h5py", "shapely")


def commands() -> list[list[str]]:
    """Every command of the command line, as it is typed."""
    groups = {"": cli.app, **{group.name: group.typer_instance for group in cli.app.registered_groups}}
    found = []
    for name, group in groups.items():
        for command in group.registered_commands:
            own = command.name or command.callback.__name__.replace("_", "-")
            found.append([*([name] if name else []), own])
    return found


SPELLINGS = [
    ["reprodcue"],
    ["data", "camelyon"],
    ["reproduce", "--prest", "quick"],
    ["train", "--fractoin", "1", "p4m"],
]
VALUES = [["reproduce", "--preset", "quik"], ["reproduce", "--set"], ["figures", "--name", "a/b"]]


def test_help_and_errors_of_spelling_import_nothing_slow():
    lines = [["--help"], *([*command, "--help"] for command in commands()), *SPELLINGS, *VALUES]
    code = f"""
import sys
from study import cli
from study.experiments.presets import setting_keys
for line in {lines!r}:
    sys.argv = ["study", *line]
    try:
        cli.main()
    except SystemExit as stopped:
        assert stopped.code == (0 if line[-1] == "--help" else 2), line
    for name in {SLOW_TO_IMPORT!r}:
        assert name not in sys.modules, (line, name)
"""
    environment = {"PYTHONPATH": str(Path(study.__file__).parents[1]), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_option_of_settings_without_a_key_lists_them(monkeypatch, capsys):
    for line in (["reproduce", "--set"], ["reproduce", "--set", "wdith=3"], ["reproduce", "--set", "width"]):
        monkeypatch.setattr(sys, "argv", ["study", *line])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert all(key in error for key in setting_keys())


def test_the_preset_option_names_every_preset_with_its_description(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "argv", ["study", "reproduce", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    for name in ("quick", "ebhi-cancer", "paper"):
        assert f"{name}: " in text


def test_tables_and_figures_need_no_torch():
    code = "import sys, study.report.writing, study.report.benchmarks; assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(Path(study.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
