"""Problems shipped with the package: pieces of ranking and retrieval models, at the sizes at which they are served.

In: nothing. Out: Problems. Left to others: their content, see `recsys_problems`; the files are also meant as examples
of how to write a problem and its sidecar.
"""

from __future__ import annotations

from pathlib import Path

from kernelevolve.problem import Problem, read_problem
from kernelevolve.suites import by_prefix, unknown

FOLDER = Path(__file__).parent / "recsys_problems"


class Recsys:
    """The shipped problems; `path` replaces their folder."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = Path(path) if path is not None else FOLDER

    def names(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(sorted(p.stem for p in self.path.glob("*.py") if p.stem != "__init__"))

    def load(self, name: str) -> Problem:
        """The problem `name`; raises UnknownName with the known ones."""
        names = self.names()
        found = by_prefix(name, names)
        if found is None:
            raise unknown("problem", name, names)
        return read_problem(self.path / f"{found}.py", suite="recsys")
