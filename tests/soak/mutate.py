"""Change the program in small ways, one at a time, and see whether a test of the changed module fails.

By hand, as it takes half an hour: ``pip install mutmut coverage``, then ``python tests/soak/mutate.py``. Of every
module in :data:`TESTS` a sample of the mutants is drawn by a fixed seed. A mutant runs the fast tests of the module,
first those that execute its line, the quickest first, until one fails. What came of each is in ``mutants.csv`` beside
this file, with a column ``reason`` that people fill in for what survived; ``--again`` runs only that.
``docs/mutants.md`` is made from the file.

The mutations are mutmut's and two more: a call whose result nobody uses is left out, and a function returns None. Its
runner is not used: it leaves out whatever has a decorator (properties, ``inference_mode``) and what is outside of
functions, which is half of the groups and all of the eight views. Instead a fork of this process, which has torch
imported already, compiles the changed source in place of the file; no file is touched. Left out are annotations,
decorators, imports and what is raised, where most changes are of a message.
"""

import argparse
import csv
import importlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import deep_replace
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("mutants.csv")
PAGE = ROOT / "docs" / "mutants.md"
SEED = 15

TESTS = {
    "study/groups.py": "groups",
    "study/gconv/convolution.py": "gconv",
    "study/gconv/layers.py": "gconv",
    "study/gconv/pooling.py": "gconv",
    "study/gconv/symmetric.py": "gconv",
    "study/gconv/sizes.py": "equivariance",
    "study/tasks/measures.py": "measures evaluation",
    "study/tasks/ratios.py": "measures statistics",
    "study/tasks/stability.py": "stability evaluation tasks",
    "study/tasks/labels.py": "tasks losses measures",
    "study/tasks/losses.py": "losses",
    "study/experiments/evaluation.py": "evaluation several_classes",
    "study/experiments/training.py": "training",
    "study/experiments/schedules.py": "training",
    "study/experiments/tuning.py": "tuning",
    "study/data/patches/splits.py": "splits",
    "study/data/patches/loading.py": "patches extract",
    "study/data/patches/manifest.py": "own_slides extract",
    "study/report/statistics.py": "statistics",
    "study/report/contrasts.py": "contrasts",
    "study/report/efficiency.py": "efficiency",
    "study/report/claims.py": "claims",
    "study/report/measures.py": "report_measures",
}
"""The test files of each module; those marked slow are left out."""

LONG = 2.0
"""Seconds of the CPU; longer tests are left out."""

LIBRARIES = (
    "torch torch._dynamo lightning_fabric pandas scipy.stats scipy.optimize h5py torchmetrics seaborn hypothesis"
)


@dataclass
class Mutant:
    """One small change of a module, what came of it, and for people why nothing did."""

    module: str
    number: int
    line: int
    before: str
    after: str
    outcome: str = ""
    reason: str = ""


def drop_call(node: cst.Expr):
    if isinstance(node.value, cst.Call):
        yield node.with_changes(value=cst.Ellipsis())


def return_none(node: cst.Return):
    if node.value is not None:
        yield node.with_changes(value=cst.Name("None"), whitespace_after_return=cst.SimpleWhitespace(" "))


class Mutations(cst.CSTVisitor):
    """All changes of a module, as (line, node, node instead)."""

    METADATA_DEPENDENCIES = (PositionProvider,)
    operators = (*mutation_operators, (cst.Expr, drop_call), (cst.Return, return_none))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Raise):
            return False
        line = self.get_metadata(PositionProvider, node).start.line if isinstance(node, cst.BaseExpression) else None
        for kind, operator in self.operators:
            if isinstance(node, kind):
                line = line or self.get_metadata(PositionProvider, node).start.line
                self.found += [(line, node, changed) for changed in operator(node)]
        return True


def _common(one: str, other: str) -> int:
    """The length of the beginning that two strings have in common."""
    length = min(len(one), len(other))
    return next((n for n in range(length) if one[n] != other[n]), length)


def difference(source: str, changed: str) -> tuple[str, str]:
    """Where two sources differ, with what is around on the line."""
    start = _common(source, changed)
    end = _common(source[start:][::-1], changed[start:][::-1])
    start = max(source.rfind("\n", 0, start) + 1, start - 30)
    after = source.find("\n", len(source) - end) - (len(source) - end)
    texts = (text[start : len(text) - end + min(after, 20)] for text in (source, changed))
    return tuple(" ".join(text.split())[:100] for text in texts)


def in_fork(function, seconds: float) -> int | None:
    """The exit code of a function in a fork of this process; None if it took more seconds of the CPU, or waits."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
        sink = os.open(os.environ.get("MUTATE_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        code = 1
        try:
            code = int(function())
        finally:
            os._exit(code)
    end = time.monotonic() + 20 * seconds  # other work may have the CPU meanwhile
    code = None
    while code is None and time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # and whatever it started
    if code is None:
        os.waitpid(pid, 0)
    return None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code


def run_tests(module: str, plugin) -> int:
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    files = [f"tests/test_{name}.py" for name in TESTS[module].split()]
    return pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *files], plugins=[plugin])


def run_mutant(module: str, changed: str, tests: list[str]) -> int:
    """Run tests where importing the module compiles the changed source."""
    name, original = module.removesuffix(".py").replace("/", "."), SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, wanted: str):
        return compile(changed, ROOT / module, "exec") if wanted == name else original(loader, wanted)

    SourceFileLoader.get_code = get_code
    return run_tests(module, InOrder(tests))


class InOrder:
    """For pytest: these tests alone, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.places), key=lambda i: self.places[i.nodeid])


class Watched:
    """For pytest: which test runs which line of some modules, and for how long."""

    def __init__(self, modules: list[str], file: Path) -> None:
        self.modules, self.file, self.seconds = modules, file, {}
        self.coverage = coverage.Coverage(data_file=None, include=[str(ROOT / module) for module in modules])

    def pytest_sessionstart(self) -> None:
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        start = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - start
            self.coverage.switch_context("")

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {module: data.contexts_by_lineno(str(ROOT / module)) for module in self.modules}
        self.file.write_text(json.dumps({"lines": lines, "seconds": self.seconds}))


@lru_cache
def watch(names: str) -> dict:
    """Run some test files once, with nothing changed."""
    modules = [module for module, own in TESTS.items() if own == names]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "watched.json"
        if code := in_fork(lambda: run_tests(modules[0], Watched(modules, file)), 600):
            sys.exit(f"the tests of {names} fail unchanged (exit code {code}); MUTATE_LOG=FILE keeps what they print")
        return json.loads(file.read_text())


def tests_of(mutant: Mutant, watched: dict) -> list[str]:
    """First the tests that run the line, then, as it may have been run once and its result kept, all others."""
    seconds = watched["seconds"]
    short = [test for test in sorted(seconds, key=seconds.get) if seconds[test] < LONG]
    direct = set(watched["lines"][mutant.module].get(str(mutant.line), ()))
    return sorted(short, key=lambda test: test not in direct)


def try_mutant(mutant: Mutant, changed: str, watched: dict) -> str:
    tests = tests_of(mutant, watched)
    seconds = 30 + 5 * sum(watched["seconds"][name] for name in tests)
    code = in_fork(lambda: run_mutant(mutant.module, changed, tests), seconds)
    return {None: "timed out", 0: "survived"}.get(code, "killed")


def mutations(module: str) -> tuple[cst.Module, list[tuple[int, cst.CSTNode, cst.CSTNode]]]:
    """A module, and all its changes, each as line, node and node instead."""
    wrapper, visitor = MetadataWrapper(cst.parse_module((ROOT / module).read_text())), Mutations()
    wrapper.visit(visitor)
    return wrapper.module, visitor.found


def drawn(count: int, most: int, module: str) -> list[int]:
    """The numbers of some mutants of a module; the first of those that are drawn where ``most`` is larger."""
    order = list(range(count))
    random.Random(f"{SEED} {module}").shuffle(order)
    return order[:most]


def read() -> list[Mutant]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        rows = [Mutant(**row) for row in csv.DictReader(file)]
    for row in rows:
        row.number, row.line = int(row.number), int(row.line)
    return rows


def write(mutants: list[Mutant]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Mutant)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, sorted(mutants, key=lambda m: (list(TESTS).index(m.module), m.number))))
    RESULTS.write_text(text.getvalue())


def write_page(mutants: list[Mutant]) -> None:
    """docs/mutants.md: how many mutants of each module were killed, and why the others were not."""
    counts = {module: Counter(m.outcome for m in mutants if m.module == module) for module in TESTS}
    made = {module: len(mutations(module)[1]) for module in TESTS}
    outcomes = ("killed", "timed out", "survived")
    rows = [(f"`{module}`", made[module], n.total(), *map(n.get, outcomes)) for module, n in counts.items()]
    total = sum(counts.values(), Counter())
    rows.append(("all", sum(made.values()), total.total(), *map(total.get, outcomes)))
    lines = [HEAD, *("| " + " | ".join(str(cell or "–") for cell in row) + " |" for row in rows), SURVIVORS]
    for m in mutants:
        if m.outcome == "survived":
            change = " → ".join(f"`{text.replace('|', chr(92) + '|')}`" for text in (m.before, m.after))
            lines.append(f"| `{m.module}:{m.line}` | {change} | {m.reason or 'TODO'} |")
    PAGE.write_text("\n".join(lines) + "\n")


HEAD = """# Mutants

Made by `python tests/soak/mutate.py` from `tests/soak/mutants.csv`. A mutant is the program with one small change, and
is killed if a fast test of the changed module fails. Of the mutants of a module a sample is run, drawn by a fixed seed.
One that takes five times as long as its tests counts as found too. `gconv/fast` is left out: its tests
compare it with the layers.

| Module | Mutants | Run | Killed | Timed out | Survived |
| --- | --- | --- | --- | --- | --- |"""

SURVIVORS = """
## Survivors

*Equivalent*: no input tells the two apart. *Message*: only words for people differ. *Speed*: only the time or the
memory differs. *Elsewhere*: a test of another file sees it.

| Where | Change | Why it lives |
| --- | --- | --- |"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="all by default")
    parser.add_argument(
        "--most", type=int, default=12, help="mutants of each module; what was run before is not run again"
    )
    parser.add_argument("--again", action="store_true", help="only those that survived, after a change of the tests")
    arguments = parser.parse_args()

    for library in LIBRARIES.split():
        importlib.import_module(library)
    known = {(m.module, m.number): m for m in read()}
    for module in arguments.modules:
        tree, every = mutations(module)
        if arguments.again:
            numbers = [n for (of, n), m in known.items() if of == module and m.outcome == "survived"]
        else:
            numbers = [n for n in drawn(len(every), arguments.most, module) if (module, n) not in known]
        watched = watch(TESTS[module]) if numbers else {}
        for n in numbers:
            line, old, new = every[n]
            changed = deep_replace(tree, old, new).code
            mutant = Mutant(module, n, line, *difference(tree.code, changed))
            mutant.outcome = try_mutant(mutant, changed, watched)
            if mutant.outcome == "survived":
                print(f"{module}:{line}: {mutant.before}  ->  {mutant.after}", flush=True)
                mutant.reason = known[module, n].reason if (module, n) in known else ""
            known[module, n] = mutant
            write(list(known.values()))
        print(module, dict(Counter(known[module, n].outcome for n in numbers)), flush=True)
    write_page(read())
