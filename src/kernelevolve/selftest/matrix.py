"""Which guard stops what: for each guard and distribution, a cheat that is rejected with it and not without it.

In: nothing, or the names of guards. Out: ROWS, and what came of them: a `MatrixReport`. Left to others: leaving guards
out (`weaken`), the cheats (`specimens`), climbing (`station`).

Where several guards would stop the same cheat, they are left out together, and a row of its own says which one is next.
What a guard without a row stops is shown by nobody: UNSHOWN has a reason for each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kernelevolve.errors import UnknownName
from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.outcome import Outcome
from kernelevolve.selftest.runner import Sitting, Task
from kernelevolve.selftest.specimen import CPU, EVERYWHERE, GPU, Specimen, Where
from kernelevolve.selftest.specimens import corpus
from kernelevolve.selftest.weaken import distributions, guards


@dataclass(frozen=True)
class Row:
    """One cheat, and what is left out so that it passes.

    Attributes:
        specimen: its id.
        guards: and distributions, left out together.
        then: verdicts that another guard gives it without these; empty where it is taken for correct.
        why: what the row shows beyond its names.
        where: `cpu` and `gpu`, where it can be shown.
    """

    specimen: str
    guards: tuple[str, ...]
    then: tuple[Verdict, ...] = ()
    why: str = ""
    where: frozenset[Where] = EVERYWHERE


OF_BEHAVIOUR = (
    Row("A46", ("census",)),
    Row("X301", ("checksums",)),
    Row("X510", ("fresh-inputs",), where=CPU),
    Row("A28c", ("timed-outputs",), where=CPU),
    Row("A28d", ("timed-outputs",), where=GPU),
    Row("A6c", ("clock",), where=CPU),
    Row("A6", ("clock",), where=GPU),
    Row("X511", ("clock",), (Verdict.BELOW_FLOOR,), "the floor is what remains where the clock is taken in"),
    Row("X511", ("clock", "floor")),
    Row("A72b", ("frames",)),
    Row("X512", ("first-call",)),
    Row("A23", ("overwrite",), why="timed inputs differ everywhere, so that only one changed row meets it"),
    Row("A22", ("overwrite",), why="every other call gets inputs that are other objects"),
    Row("A27", ("hold",)),
    Row("A97a", ("poison",), where=CPU),
    Row("X513", ("guard-bands",)),
    Row("X509", ("state",)),
    Row("X502", ("single-input",)),
    Row("X501", ("weights",)),
    Row("X503", ("determinism",)),
    Row("X504", ("layouts",)),
    Row("X505", ("scaling",)),
    Row("X506", ("cotangents",)),
    Row("X507", ("opcheck",)),
    Row("X508", ("hidden-shapes",), where=CPU),
    Row("X514", ("size-ladder",), (Verdict.GENERALIZATION,), "hidden sizes are next", where=CPU),
    Row("X514", ("size-ladder", "hidden-shapes"), where=CPU),
)
OF_VALUES = (
    Row("X601", ("declared", "D1", "D6", "hidden-shapes"), where=CPU,
        why="the numbers of most problems are those of D1; the first part of D6 and the hidden sizes have them too"),
    *(Row(f"X{number}", (name,), where=CPU) for number, name in enumerate(
        ("D2", "D3", "D4", "D5", "D5p", "D6", "D7", "D8", "D8b", "D9", "D10", "D11", "D12"), 602)),
)  # fmt: skip
ROWS = (*OF_BEHAVIOUR, *OF_VALUES)

#: Guards that no row shows, with the reason: each needs a device, in a lane that no specimen is judged in there.
UNSHOWN: Mapping[str, str] = {
    "plan-lane": "it times the recorded plan: a cheat in Python changes a label then and no figure",
    "kernels": "a second instrument on a device, in the lane `publish`: for clocks that are bent in one place only",
    "sanitizer": "compute-sanitizer on a device, in the lane `publish`",
}


@dataclass(frozen=True)
class Shown:
    """What came of one row.

    Attributes:
        found, then: the outcome with all guards, and without the row's.
    """

    row: Row
    found: Outcome
    then: Outcome

    @property
    def holds(self) -> bool:
        """Rejected for the right reason with all guards; without the row's it passes, or is rejected as the row says.

        A verdict by another guard counts only if it is not the one that was left out.
        """
        verdict = self.then.verdict
        as_said = verdict in self.row.then if self.row.then else self.then.passed
        return self.found.right and as_said

    @property
    def line(self) -> str:
        """In one line."""
        with_all = f"{self.found.verdict or 'INFRA'} at {self.found.rung or '-'}"
        alone = f"{self.then.verdict or 'INFRA'} at {self.then.rung or '-'}"
        by = f" by {', '.join(self.then.guards)}" if self.then.guards else ""
        sign = "ok  " if self.holds else "FAIL"
        without = ", ".join(self.row.guards)
        line = f"{sign} {self.row.specimen:5} {with_all:28} without {without}: {alone}{by}"
        return line if self.holds else f"{line}: {(self.then if self.found.right else self.found).message[:200]}"


@dataclass(frozen=True)
class MatrixReport:
    """All rows that were shown.

    Attributes:
        left: rows that time did not suffice for.
        unshown: guards that no row shows, with the reason.
    """

    device: str
    shown: tuple[Shown, ...]
    left: tuple[Row, ...]
    unshown: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every row was shown and holds."""
        return bool(self.shown) and not self.left and all(s.holds for s in self.shown)

    @property
    def summary(self) -> str:
        """In one line."""
        held = sum(s.holds for s in self.shown)
        names = {name for s in self.shown for name in s.row.guards}
        said = f"{held} of {len(self.shown)} rows hold, for {len(names)} guards and distributions"
        left = f"; {len(self.left)} rows not run" if self.left else ""
        return f"{said}{left}; not shown: {', '.join(self.unshown) or 'none'}"


def rows_for(names: Sequence[str] = (), *, on: Where = "cpu") -> tuple[Row, ...]:
    """The rows that can be shown `on` `cpu` or `gpu`: all, or those in which one of these guards or distributions is.

    Raises:
        UnknownName: no lane has such a guard or distribution.
    """
    known = (*guards(), *distributions())
    for name in names:
        if name not in known:
            raise UnknownName("guard or distribution", name, tuple(sorted(known)))
    return tuple(r for r in ROWS if on in r.where and (not names or {*names} & {*r.guards}))


def run_matrix(
    rows: Sequence[Row],
    *,
    device: str = "none",
    jobs: int = 1,
    within: float = math.inf,
    progress: Callable[[str], None] = lambda line: None,
    told: Callable[[Shown], None] = lambda shown: None,
) -> MatrixReport:
    """Takes the cheat of each row up the ladder with all guards, and without those of the row.

    Args:
        within: seconds after which no further climb begins.
        told: is told each row as soon as both of its climbs are done, one at a time.

    Raises:
        MissingDevice: the device is not here.
    """
    start = time.monotonic()
    known: Mapping[str, Specimen] = {s.id: s for s in corpus()}
    pairs = [(row, Task(known[row.specimen]), Task(known[row.specimen], row.guards)) for row in rows]
    tasks = dict.fromkeys(task for _, *both in pairs for task in both)
    sitting = Sitting(tuple(tasks), device, end=start + within, controls=False, progress=progress)
    shown: dict[Row, Shown] = {}

    def done(_: Outcome) -> None:
        found = dict(sitting.found)
        for row, a, b in pairs:
            if row not in shown and a in found and b in found:
                shown[row] = Shown(row, found[a], found[b])
                told(shown[row])

    sitting.told = done
    sitting.run(jobs)
    left = tuple(row for row in rows if row not in shown)
    in_order = tuple(shown[row] for row in rows if row in shown)
    return MatrixReport(sitting.product, in_order, left, UNSHOWN, sitting.versions, time.monotonic() - start)
