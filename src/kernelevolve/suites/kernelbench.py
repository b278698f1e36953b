"""KernelBench: the problems of a checkout of https://github.com/ScalingIntelligence/KernelBench, used as they are.

In: the checkout's folder, from `path` or the environment variable KERNELBENCH_PATH. Out: Problems named
`level1/19_ReLU`. Left to others: fetching the checkout; its files are not part of this package.
Known traits of single problems (outputs that are always zero) are found by the judge, not listed here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kernelevolve.errors import UsageError
from kernelevolve.problem import Problem, read_problem
from kernelevolve.suites import by_prefix, unknown

VARIABLE = "KERNELBENCH_PATH"
URL = "https://github.com/ScalingIntelligence/KernelBench"


class KernelBench:
    """The levels of one checkout."""

    def __init__(self, path: Path | None = None) -> None:
        given = path if path is not None else os.environ.get(VARIABLE)
        if not given:
            raise UsageError(
                f"where is KernelBench? Run `git clone {URL}` and give the folder with --suite-path or in {VARIABLE}"
            )
        root = Path(given)
        self.root = root / "KernelBench" if (root / "KernelBench" / "level1").is_dir() else root
        if not (self.root / "level1").is_dir():
            raise UsageError(
                f"{root}: no checkout of KernelBench (no level1 folder); run `git clone {URL}` and give that"
            )

    def names(self) -> tuple[str, ...]:
        """`level1/1_...` to the last level's last problem, by number."""
        files = [p for level in self.root.glob("level*") for p in level.glob("*.py") if p.name[0].isdigit()]
        return tuple(f"{p.parent.name}/{p.stem}" for p in sorted(files, key=_order))

    def load(self, name: str) -> Problem:
        """The problem `level1/19_ReLU`, also by `level1/19`, or by `19_ReLU` where only one level has it.

        Raises:
            UnknownName: no problem, or more than one, is called so.
        """
        names = self.names()
        found = by_prefix(name.removesuffix(".py"), names)
        if found is None:
            raise unknown("problem", name, names)
        return read_problem(self.root / f"{found}.py", suite="kernelbench")


def _order(path: Path) -> tuple[str, int, str]:
    number = re.match(r"\d+", path.name)
    return path.parent.name, int(number.group()) if number else 0, path.name
