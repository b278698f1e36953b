"""Imports only go down. The floors of ARCHITECTURE, held by reading every import of every file.

A file or folder directly under `kernelevolve` is a unit. Each unit stands on one floor and imports from lower floors
only; units of one floor do not know each other, except on the two lowest. A unit that is not listed here fails the
test: it has to be given its floor.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kernelevolve

ROOT = Path(kernelevolve.__file__).parent

WORDS = {
    "errors", "codec", "problem", "hardware", "candidate", "evaluation", "events", "family", "graph", "node", "packed",
    "receipt", "snapshot", "syntax",
}  # fmt: skip
FLOORS: tuple[set[str], ...] = (
    WORDS,
    {"settings", "plugins", "wire", "protocol", "nursery", "seal", "feed", "tools"},
    {"suites", "platforms", "knowledge", "llm", "store", "judge", "worker", "translate", "tensors"},
    {"search", "propose", "evaluate", "ship", "drive"},
    {"run", "engineer"},
    {"runs", "equipment", "deferred", "testing"},
    {"recheck", "race", "briefs", "steer"},
    {"selftest"},
    {"cli", "web", "mcp"},
)
DOORS = FLOORS[-1]
# The two lowest floors are words and plain tools: there, neighbours may know each other.
NEIGHBOURLY = FLOORS[0] | FLOORS[1]
# Who else may import a neighbour: torch code that both sides of a measurement share.
NEIGHBOURS = {("judge", "tensors"), ("worker", "tensors"), ("translate", "tensors")}
# The command line starts the server, and both tell of runs and verdicts in the same words.
NEIGHBOURS |= {("cli", "mcp"), ("mcp", "cli")}
# Reached as processes only.
PROCESSES = {"judge", "worker"}
TORCH = ("torch", "triton")
TORCH_UNITS = {"judge", "worker", "tensors"}
STANDARD_LIBRARY_ONLY = WORDS


def files():
    return sorted(p for p in ROOT.rglob("*.py") if not {"recsys_problems", "problems", "articles"} & set(p.parts))


def unit_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str, str]]:
    """Line, module and imported name of each import, relative ones resolved; those for type checkers count too."""
    package = ("kernelevolve", *path.relative_to(ROOT).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            found += [(node.lineno, module, alias.name) for alias in node.names]
    return found


def floor_of(unit: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if unit in floor)


def own(path: Path) -> list[tuple[int, str, str]]:
    """Line, unit and the text of each import of our own."""
    found = []
    for line, module, name in imports(path):
        parts = module.split(".")
        if parts[0] == "kernelevolve":
            below = (ROOT / name).exists() or (ROOT / f"{name}.py").exists()
            found.append((line, parts[1] if len(parts) > 1 else name * below, f"{module}:{name}"))
    return found


def broken_rules(path: Path) -> list[str]:
    unit = unit_of(path)
    where = path.relative_to(ROOT)
    wrong = []
    for line, other, text in own(path):
        if other in ("", unit):
            continue
        if unit in DOORS and other not in DOORS:
            if text.split(":")[0] != "kernelevolve" or text.split(":")[1] not in kernelevolve.__all__:
                wrong.append(f"{where}:{line}: a door imports {text}; doors import public names of kernelevolve")
        elif floor_of(other) > floor_of(unit):
            wrong.append(f"{where}:{line}: {unit} imports {other}, which stands above it")
        elif floor_of(other) == floor_of(unit) and unit not in NEIGHBOURLY and (unit, other) not in NEIGHBOURS:
            wrong.append(f"{where}:{line}: {unit} imports its neighbour {other}")
        if other in PROCESSES:
            wrong.append(f"{where}:{line}: {unit} imports {other}, which is reached as a process only")
        if other == "tensors" and (unit, other) not in NEIGHBOURS:
            wrong.append(f"{where}:{line}: {unit} imports tensors, which is torch code")
    return wrong


def code_files():
    return [p for p in files() if unit_of(p) not in ("__init__", "__main__")]


def test_every_unit_has_a_floor():
    units = {unit_of(p) for p in code_files()}
    listed = set().union(*FLOORS)
    assert units - listed == set(), "new units: give each its floor in FLOORS"
    assert sum(len(floor) for floor in FLOORS) == len(listed), "a unit stands on two floors"


@pytest.mark.parametrize("unit", sorted({unit_of(p) for p in code_files()} & set().union(*FLOORS)))
def test_imports_go_down(unit):
    assert [rule for p in code_files() if unit_of(p) == unit for rule in broken_rules(p)] == []


def test_torch_stays_where_it_belongs():
    wrong = []
    for path in files():
        where = path.relative_to(ROOT)
        allowed = unit_of(path) in TORCH_UNITS or str(where).startswith("translate/capture")
        wrong += [
            f"{where}:{line}: imports {module}"
            for line, module, _ in imports(path)
            if module.split(".")[0] in TORCH and not allowed
        ]
    assert wrong == []


def test_capture_alone_uses_tensors_in_translate():
    wrong = [
        f"{p.relative_to(ROOT)}:{line}"
        for p in files()
        if unit_of(p) == "translate" and not str(p.relative_to(ROOT)).startswith("translate/capture")
        for line, other, _ in own(p)
        if other == "tensors"
    ]
    assert wrong == []


def test_words_need_the_standard_library_only():
    import sys

    wrong = [
        f"{p.relative_to(ROOT)}:{line}: {module}"
        for p in files()
        if unit_of(p) in STANDARD_LIBRARY_ONLY
        for line, module, _ in imports(p)
        if module.split(".")[0] not in {*sys.stdlib_module_names, "kernelevolve"}
    ]
    assert wrong == []


def test_importing_is_lazy_at_the_door():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    names = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    assert {getattr(n, "module", "") for n in names} <= {"__future__", "importlib", "typing"}


@pytest.mark.parametrize(
    ("unit", "code", "said"),
    [
        ("graph.py", "from kernelevolve.run import Run", "stands above"),
        ("search/x.py", "from kernelevolve.propose import Writer", "its neighbour"),
        ("evaluate/x.py", "from kernelevolve.tensors.load import y", "torch code"),
        ("run.py", "import kernelevolve.worker.run", "as a process only"),
        ("cli/x.py", "from kernelevolve.run import Run", "public names"),
        ("cli/x.py", "from kernelevolve import run", "public names"),
        ("web/x.py", "def f():\n    from ..graph import Graph", "public names"),
        ("propose/x.py", "from ..evaluate import ladder", "its neighbour"),
    ],
)
def test_the_test_sees_what_it_should(monkeypatch, tmp_path, unit, code, said):
    for name in {"run.py", "evaluate", "propose", "graph.py", "worker", "tensors"}:
        (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).touch()
    path = tmp_path / unit
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert said in " ".join(broken_rules(path))
