"""The picture of the rooms in ``docs/design.md`` is how they import one another."""

import ast
import re
from pathlib import Path

import study

PACKAGE = Path(study.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"
FACADES = {"__init__", "__main__", "unet"}
"""Names for users, which no room imports."""


def rooms():
    """The rooms of the picture, from the ground up."""
    return re.search(r"```\n(.+?)```", DESIGN.read_text(encoding="utf-8"), re.S)[1].split()


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """The rooms that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"study.{a.name}" for a in node.names] if node.module == "study" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("study."))


def test_every_room_is_in_the_picture_once():
    found = {room_of(path) for path in PACKAGE.rglob("*.py")} - FACADES
    assert sorted(rooms()) == sorted(found)


def test_imports_go_down_only():
    height = {name: n for n, name in enumerate(rooms())}
    for path in PACKAGE.rglob("*.py"):
        if (room := room_of(path)) not in FACADES:
            upward = {name for name in imported(path) if name != "__version__" and height[name] > height[room]}
            assert not upward, f"{path.relative_to(PACKAGE)} imports {upward}"
