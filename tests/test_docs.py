"""README.md and docs/: short, linked, their tables those of figures/, their code and their commands as they are."""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from study import cli
from study.errors import StudyError
from study.report.documents import TABLE, read_documents, update_documents, with_tables

ROOT = Path(__file__).parents[1]
DOCUMENTS = dict(read_documents(ROOT))
IDS = [path.name for path in DOCUMENTS]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_tables_are_those_of_the_figures(path):
    text = DOCUMENTS[path]
    assert text == with_tables(text, ROOT), "run `python -m study docs`"
    assert text.count("<!-- table:") == text.count("<!-- end of table -->") == len(TABLE.findall(text))


def test_the_readme_and_the_docs_show_the_results():
    shown = {path.name: [table for _, table, *_ in TABLE.findall(text)] for path, text in DOCUMENTS.items()}
    assert shown["README.md"] == ["figures/ebhi-cancer/claims.md"]
    assert {"figures/ebhi-cpu/dice_table.md", "figures/ebhi-cpu/stability_table.md"} < set(shown["results.md"])
    assert "figures/ebhi-cpu/implementation_table.md" in shown["escnn.md"]


def test_a_table_is_copied_anew_and_the_rest_of_the_document_stays(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "table.md").write_text("| new |\n| --- |\n")
    text = "before\n<!-- table: table.md -->\nold\n<!-- end of table -->\nafter\n"
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "docs/other.md").write_text("no table\n")
    assert update_documents(tmp_path) == [tmp_path / "README.md"]
    assert (tmp_path / "README.md").read_text() == text.replace("old\n", "| new |\n| --- |\n")
    assert update_documents(tmp_path) == []
    (tmp_path / "table.md").unlink()
    with pytest.raises(StudyError, match=r"no table at .*table\.md"):
        update_documents(tmp_path)
    with pytest.raises(StudyError, match=r"no README\.md in"):
        update_documents(tmp_path / "docs")


# --- links ---


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[path]):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


# --- code ---


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


NOT_RUN = {
    "dask_jobqueue": "needs a cluster",
    "import onnxruntime": "needs an exported network; test_export.py runs it",
    "torch.export.load": "the same",
    "from network import": "the same",
    'load_model("runs/': "needs a trained network",
    'load_model("best.pt")': "needs a trained network",
    "patches = [Patch(image, mask": "needs data; test_patches.py and test_cli.py do the same",
}
"""Python in the documents that is only compiled, by what stands in it, and why."""


@pytest.mark.parametrize("path", [path for path, text in DOCUMENTS.items() if blocks(text)], ids=lambda path: path.name)
def test_python_runs_from_top_to_bottom(path):
    if path.name == "extending.md":
        pytest.skip("test_extending.py runs it")
    names = {}
    with torch.no_grad():
        for block in blocks(DOCUMENTS[path]):
            code = compile(block, path.name, "exec")
            if not any(mark in block for mark in NOT_RUN):
                exec(code, names)
    for block in blocks(DOCUMENTS[path]):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("study"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


# --- commands ---


def commands() -> dict[str, str]:
    """Every command in the documents, without comments, and the file that it stands in."""
    found = {}
    for path, text in DOCUMENTS.items():
        if path.name == "extending.md":
            continue  # test_extending.py runs all of it
        lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
        lines += re.findall(r"# (python -m .*)$", text, re.MULTILINE)
        for line in lines:
            line = re.sub(r"\s+#.*$", "", line)
            if re.match(r"(\w+=\S+ )*(python|make|pip|conda|export|source) ", line):
                found.setdefault(line, path.name)
    return found


COMMANDS = commands()

QUICK = {
    "python -m study --help",
    "python -m study docs",
    "python -m study figures --preset ebhi-cpu",
    "python -m study figures --list",
}
"""Run here as they are."""

ELSEWHERE = {
    "make ": "what .ci/run and the other tests do",
    "pip install": "changes the environment; test_environment.py checks the packages",
    "conda ": "needs conda",
    "export ": "sets a variable",
    "source ": "sets the shell up",
    "python -m pytest tests/test_gpu.py": "needs a GPU for what the other tests do not run",
    "python tests/soak/": "takes many minutes; run by hand",
    "python -m study reproduce": "trains; test_cli.py runs a tiny study",
    "python -m study train": "trains; test_cli.py runs a tiny one",
    "python -m study tune": "trains; test_tuning.py runs a tiny one",
    "python -m study evaluate": "needs a trained network; test_cli.py has one",
    "python -m study predict": "needs a slide and a trained network; test_prediction.py has them",
    "python -m study export": "needs a trained network; test_export.py has some",
    "python -m study convert": "needs a trained network; test_cli.py has one",
    "python -m study check": "takes a minute; test_cli.py runs a small one",
    "python -m study bench": "measures for minutes, or needs data; test_bench.py and test_speed.py run small ones",
    "python -m study data": "needs a download or slides; test_cli_slides.py and test_ebhi.py have some",
    "python -m study slides": "needs slides; test_cli_slides.py draws some",
    "CXX=false python -m study bench rules": "measures for minutes",
    "python -m study figures": "draws for a minute; test_speed.py and test_bench.py draw benchmarks",
}
"""Commands that are only parsed here, by how they begin, and why."""


def test_there_are_commands_in_the_documents():
    assert {"make reproduce", "python -m study --help", "python -m study check p4m"} <= set(COMMANDS)
    assert set(COMMANDS) >= QUICK


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_run_here_or_said_to_be_run_elsewhere(command):
    assert command in QUICK or any(command.startswith(start) for start in ELSEWHERE), "add it to QUICK or ELSEWHERE"


@pytest.mark.parametrize("command", [command for command in COMMANDS if "python -m study" in command])
def test_every_command_of_the_study_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("")
    words = shlex.split(command)
    words = words[words.index("study") + 1 :]
    assert words
    parser = typer.main.get_command(cli.app)
    context = None
    while hasattr(parser, "commands") and words and not words[0].startswith("-"):
        parser = parser.commands[words.pop(0)]  # a KeyError: there is no such command
    if words != ["--help"]:
        context = parser.make_context(parser.name, words)
        assert not context.args


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Results, figures and documents, as they are in a clone."""
    shutil.copy(ROOT / "README.md", tmp_path)
    for folder in ("docs", "figures"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copytree(ROOT / "results/ebhi-cpu", tmp_path / "results/ebhi-cpu")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(QUICK))
def test_quick_commands_run(command, checkout):
    words = [sys.executable, *shlex.split(command)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([\w./]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert named <= targets
