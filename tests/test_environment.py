"""pyproject.toml, constraints.txt, environment.yml, the Makefile and the imports say the same."""

import ast
import importlib
import re
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOL = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())

IMPORT_NAMES = {
    "pillow": "PIL",
    "lightning-fabric": "lightning_fabric",
    "openslide-python": "openslide",
    "pyyaml": "yaml",
}


def name(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def pins() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            found.setdefault(name(line), []).append(line)
    return found


def test_every_dependency_is_pinned_to_what_was_tested():
    wanted = [*PROJECT["dependencies"], *(requirement for extra in EXTRAS.values() for requirement in extra), "escnn"]
    missing = [requirement for requirement in wanted if name(requirement) not in pins()]
    assert not missing, f"add to constraints.txt: {missing}"


def test_every_pin_is_exact_and_there_is_one_per_package_and_python():
    for package, lines in pins().items():
        assert all(re.match(r"[A-Za-z0-9._-]+==[^ ;]+( ?;.*)?$", line) for line in lines), lines
        assert len(lines) == 1 or all(";" in line for line in lines), package


def test_locked_files_are_those_of_the_pinned_versions():
    lines = [line for line in (ROOT / "locked.txt").read_text().splitlines() if not line.startswith("#")]
    locked = dict(line.split(" --hash=sha256:") for line in lines)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in locked.values())
    here = [Requirement(line) for lines in pins().values() for line in lines]
    linux = default_environment() | {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux"}
    wanted = {f"{pin.name}{pin.specifier}" for pin in here if pin.marker is None or pin.marker.evaluate(linux)}
    assert locked.keys() == {pin for pin in wanted if not pin.startswith("torch==")}  # its build is the user's choice


def test_what_is_installed_is_what_is_pinned():
    for requirement in PROJECT["dependencies"]:
        package = name(requirement)
        allowed = [re.search(r"==([^ ;]+)", line)[1] for line in pins()[package]]
        assert version(package).split("+")[0] in allowed, package


def test_conda_uses_the_same_constraints_and_extras():
    (pip,) = (entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    assert "--constraint constraints.txt" in pip
    (package,) = (line for line in pip if line.startswith("--editable"))
    extras = set(re.search(r"\[(.*)\]", package)[1].split(","))
    assert extras <= EXTRAS.keys()
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.search(r'"\.\[(.*)\]"', makefile)[1].split(",")) <= extras
    assert "--constraint constraints.txt" in makefile


def test_escnn_is_installed_without_a_fortran_compiler():
    makefile = (ROOT / "Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if "--no-deps" in line)
    assert "--constraint constraints.txt --no-deps escnn" in line
    (pip,) = (entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    assert "escnn" in pip  # py3nj is there by then, compiled by conda
    declared = {name(requirement) for requirement in EXTRAS["escnn"]} | {name(r) for r in PROJECT["dependencies"]}
    if sys.version_info < (3, 13):  # on newer ones lie_learn cannot be installed
        needed = {name(requirement) for requirement in requires("escnn") if "extra" not in requirement}
        assert {n.replace("_", "-") for n in needed} - {"py3nj"} <= {d.replace("_", "-") for d in declared}
        importlib.import_module("escnn.nn")


def test_conda_brings_what_pip_would_have_to_compile_and_a_python_that_fits():
    packages = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    assert {"py3nj", "cxx-compiler"} <= set(packages)
    (python,) = (entry for entry in packages if entry.startswith("python="))
    minimum = re.search(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(map(int, minimum))
    # 1.26.4 is the numpy that escnn runs on, and Python 3.12 the last that has it
    assert tuple(map(int, python.split("=")[1].split("."))) <= (3, 12)


def test_every_import_of_the_package_is_a_declared_dependency():
    declared = {IMPORT_NAMES.get(name(r), name(r)) for r in PROJECT["dependencies"]}
    imported = set()
    for file in (ROOT / "study").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    with_torch = {"triton"}  # with its builds for GPUs
    optional = {"escnn", *EXTRAS["export"]}
    undeclared = imported - declared - set(sys.stdlib_module_names) - {"study"} - optional - with_torch
    assert not undeclared
    used_by_others = {"imagecodecs", "openslide-bin"}  # tifffile and openslide load them
    assert declared - used_by_others <= imported, "a dependency that nothing imports"


def test_what_is_not_code_comes_with_the_package_too():
    packages = TOOL["package-data"]
    wanted = {file for package, names in packages.items() for name in names for file in _in(package).glob(name)}
    files = {file for file in (ROOT / "study").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {file for file in files if file.suffix != ".py"} == wanted
    assert all((file.parent / "__init__.py").is_file() for file in files if file.suffix == ".py")
    assert TOOL["packages"] == {"find": {"include": ["study*"]}}


def _in(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


@pytest.mark.parametrize("file", ["LICENSE", "CITATION.cff", "README.md", "environment.yml", ".ci/run"])
def test_the_repository_is_complete(file):
    assert (ROOT / file).is_file()
