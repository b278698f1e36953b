"""Specimen: one kernel with a known nature, and the verdict that it must get.

In: nothing. Out: frozen values. Left to others: running them (`runner`), the kernels that they are made from
(`honest`). A cheat is an honest kernel with named replacements, so that the difference is the cheat and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kernelevolve.evaluation import Verdict
from kernelevolve.problem import Problem, read_problem
from kernelevolve.selftest.honest import edit
from kernelevolve.settings import LaneName

Where = Literal["cpu", "gpu"]
Family = Literal["T", "R", "V", "N", "H", "S", "G", "honest"]
FAMILIES: Mapping[Family, str] = {
    "T": "timing",
    "R": "replay",
    "V": "mathematics",
    "N": "numerics",
    "H": "grader",
    "S": "system",
    "G": "device memory",
    "honest": "honest but odd",
}
MARK = "ke-specimen"  # name of a process that a specimen leaves behind; 15 characters at most
CANARY = "ke-selftest-canary"  # name of a file and value in the environment, both of the host's and no one else's
PROBLEMS = Path(__file__).parent / "problems"
EVERYWHERE: frozenset[Where] = frozenset(("cpu", "gpu"))
CPU: frozenset[Where] = frozenset(("cpu",))
GPU: frozenset[Where] = frozenset(("gpu",))


@dataclass(frozen=True)
class Specimen:
    """One kernel and what must be found about it.

    Attributes:
        id: `A21` or `L7` where it stands in a published list of cases, with a letter behind it where one case needs
            several kernels (`A28c`); `X1`, ... for our own.
        family: what kind of cheat, see `FAMILIES`.
        title: what it does, in one line.
        problem: name of a file in `problems`.
        source: the candidate's text.
        verdicts: those that name its fault; any other verdict is the wrong reason. Empty for what is honest: any
            correct verdict will do.
        where: `cpu` and `gpu`, where it can run.
        lane: in which it is judged.
        guard: name of the guard that is expected to catch it; empty where several may, or the comparison itself does.
        distribution: of inputs that alone shows what is wrong; empty where any does.
        timed: whether timed calls could tell more than compared ones; on a device all are timed.
        seconds: most time that one call may take, for those that hang on purpose.
    """

    id: str
    family: Family
    title: str
    problem: str
    source: str
    verdicts: tuple[Verdict, ...] = ()
    where: frozenset[Where] = EVERYWHERE
    lane: LaneName = "screen"
    guard: str = ""
    seconds: float = 60.0
    distribution: str = ""
    timed: bool = True

    @property
    def honest(self) -> bool:
        """Whether it must pass."""
        return not self.verdicts

    @property
    def disarmed(self) -> bool:
        """Whether it must pass although it means harm: what it tries must come to nothing."""
        return not self.verdicts and self.family != "honest"

    def expects(self, verdict: Verdict) -> bool:
        """Whether `verdict` is right for it."""
        return verdict in self.verdicts if self.verdicts else verdict.ok


def edited(
    id: str,
    title: str,
    problem: str,
    source: str,
    *edits: tuple[str, str],
    family: Family,
    verdicts: tuple[Verdict, ...] = (),
    where: frozenset[Where] = EVERYWHERE,
    lane: LaneName = "screen",
    guard: str = "",
    distribution: str = "",
    timed: bool = True,
) -> Specimen:
    """The specimen whose text is `source` with these replacements.

    Raises:
        ValueError: one of them does not fit exactly once.
    """
    made = edit(source, *edits)
    return Specimen(
        id, family, title, problem, made, verdicts, where, lane, guard, distribution=distribution, timed=timed
    )


def read(name: str) -> Problem:
    """The shipped problem `name`.

    Raises:
        ProblemError: there is none.
    """
    return read_problem(PROBLEMS / f"{name}.py", suite="selftest")
