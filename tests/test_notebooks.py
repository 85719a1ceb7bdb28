"""The notebooks run from a fresh clone, on every preset that has results."""

from pathlib import Path

import nbformat
import pytest
from conftest import HAS_ESCNN
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRESETS = sorted(folder.parent.name for folder in (ROOT / "results").glob("*/trials"))


def draws(notebook: nbformat.NotebookNode) -> bool:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return any("image/png" in output.get("data", {}) for output in outputs)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks_and_results():
    names = ["1_layers_against_escnn", "2_dice_table", "3_p4_against_p4m", "4_stability_maps", "5_is_it_worth_it"]
    assert [path.stem for path in NOTEBOOKS] == names
    assert {"ebhi-cpu", "miniature"} <= set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_under_a_minute(path, preset):
    if "escnn" in path.stem and not HAS_ESCNN:
        pytest.skip("escnn is not installed")
    notebook = read(path)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"preset = {preset!r}"
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert draws(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_output_and_without_errors(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert draws(read(path))
    assert not any(output.output_type == "error" for output in outputs)
    assert all(len(cell.source.splitlines()) <= 15 for cell in cells), "a cell should be short"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_the_command_that_makes_its_input(path):
    assert "python -m study reproduce" in read(path).cells[0].source
