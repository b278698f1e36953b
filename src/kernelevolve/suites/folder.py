"""A folder of problem files: every `.py` below it that defines `Model` and `get_inputs` is a problem.

In: the folder. Out: Problems named by their path below it without suffix. Left to others: their content (`problem`).
"""

from __future__ import annotations

import ast
from pathlib import Path

from kernelevolve.errors import UsageError
from kernelevolve.problem import REQUIRED, Problem, read_problem
from kernelevolve.suites import by_prefix, unknown
from kernelevolve.syntax import parse


class Folder:
    """The problem files below `path`; hidden folders are left out."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = Path(path) if path is not None else Path.cwd()
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: no such folder; give the folder that holds the problem files")

    def names(self) -> tuple[str, ...]:
        """Relative paths without `.py`, sorted."""
        files = (
            p for p in self.path.rglob("*.py") if not any(s.startswith(".") for s in p.relative_to(self.path).parts)
        )
        return tuple(sorted(p.relative_to(self.path).with_suffix("").as_posix() for p in files if _is_problem(p)))

    def load(self, name: str) -> Problem:
        """The problem in `NAME.py`.

        Raises:
            UnknownName: there is no such file.
            ProblemError: it is no problem file.
        """
        direct = self.path / f"{name}.py"
        if direct.is_file():
            return read_problem(direct, suite="folder")
        names = self.names()
        found = by_prefix(name, names)
        if found is None:
            raise unknown("problem", name, names)
        return read_problem(self.path / f"{found}.py", suite="folder")


def _is_problem(path: Path) -> bool:
    try:
        body = parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError, OSError):
        return False
    defined = {n.name for n in body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    return defined.issuperset(REQUIRED)
