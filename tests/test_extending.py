"""docs/extending.md, recipe by recipe: its files are written and edited in a copy of the package, its commands run."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("EXT_ROOT", Path(__file__).parents[1]))
TEXT = (Path(__file__).parents[1] / "docs/extending.md").read_text()
STEP = re.compile(
    r"(?:`(?P<path>[\w./-]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```|^    (?P<command>\S.*)$", re.M | re.S
)


@dataclass(frozen=True)
class Step:
    """A file to write, a file to change (``diff``), Python to run, or a command."""

    kind: str
    text: str
    path: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether a file of the project is written or changed."""
        return self.path is not None


def recipes() -> dict[str, list[Step]]:
    """The steps of each recipe, by its heading."""
    found = {}
    for section in re.split(r"^## ", TEXT, flags=re.M)[1:]:
        heading, body = section.split("\n", 1)
        steps = []
        for step in STEP.finditer(body):
            if step["command"]:
                steps.append(Step("command", re.sub(r"\s+#.*$", "", step["command"])))
            else:
                steps.append(Step(step["kind"], step["code"], step["path"]))
        found[heading] = steps
    return found


RECIPES = recipes()


def test_the_six_recipes_are_there():
    assert list(RECIPES) == ["A group", "A data set", "A network", "A loss or classes", "A figure", "A preset"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_fits_on_a_page_and_touches_two_files_at_most(recipe):
    body = TEXT.split(f"## {recipe}\n")[1].split("\n## ")[0]
    assert len(body.splitlines()) <= 70
    paths = {step.path for step in RECIPES[recipe] if step.is_file}
    assert 1 <= len([path for path in paths if path.startswith("study/")]) <= 2
    assert any(step.kind == "command" for step in RECIPES[recipe])


def copy_of_the_package(folder: Path) -> None:
    """The package in ``folder``, as links to its files."""
    for path in (ROOT / "study").rglob("*"):
        target = folder / path.relative_to(ROOT)
        if path.is_file() and "__pycache__" not in path.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)


def change(path: Path, diff: str) -> None:
    """Apply the lines of a diff, which stand in the file once, one after the other."""
    lines = diff.splitlines()
    assert all(line[:1] in " +-" for line in lines)
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    text = path.read_text()
    assert text.count(old) == 1, f"these lines are not in {path}:\n{old}"
    path.unlink()  # it is a link to the file of the project
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_works(recipe, tmp_path):
    copy_of_the_package(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    for step in RECIPES[recipe]:
        if step.kind == "diff":
            change(tmp_path / step.path, step.text)
        elif step.is_file:
            path = tmp_path / step.path
            assert not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text)
        else:
            words = shlex.split(step.text)[1:] if step.kind == "command" else ["-c", step.text]
            done = subprocess.run(
                [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, f"{step.text}\n{done.stdout}\n{done.stderr}"
