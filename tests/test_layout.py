"""The pictures of the rooms in ``docs/design.md`` are how they import one another."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import study

PACKAGE = Path(study.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"
FACADES = {"__init__", "__main__", "unet"}
"""Names for users, which no room imports."""

PICTURES = [("study", 0), ("study.data", 1)]
"""The packages whose rooms are drawn, in the order of the document."""


def drawn(place: int) -> list[str]:
    """The rooms of a picture, from the ground up."""
    return re.findall(r"```\n(.+?)```", DESIGN.read_text(encoding="utf-8"), re.S)[place].split()


def files(package: str) -> dict[Path, str]:
    """The files of a package, and the room that each is in."""
    folder = PACKAGE.parent.joinpath(*package.split("."))
    found = {path: path.relative_to(folder).parts[0].removesuffix(".py") for path in folder.rglob("*.py")}
    return {path: room for path, room in found.items() if room not in FACADES}


def imported(path: Path, package: str) -> Iterator[str]:
    """The rooms of a package that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        inside = (name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}."))
        yield from (name.split(".")[0] for name in inside if not name.startswith("_"))


@pytest.mark.parametrize(("package", "place"), PICTURES)
def test_every_room_is_in_the_picture_once(package, place):
    assert sorted(drawn(place)) == sorted(set(files(package).values()))


@pytest.mark.parametrize(("package", "place"), PICTURES)
def test_imports_go_down_only(package, place):
    height = {name: n for n, name in enumerate(drawn(place))}
    for path, room in files(package).items():
        upward = {name for name in imported(path, package) if height[name] > height[room]}
        assert not upward, f"{path.relative_to(PACKAGE)} imports {upward}"
