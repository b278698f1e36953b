"""What became of specimens: one Outcome each, and a Report of all.

In: nothing. Out: frozen values, and how they are printed. Left to others: obtaining them (`station`, `runner`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernelevolve.evaluation import Rung, Verdict


@dataclass(frozen=True)
class Outcome:
    """What became of one specimen.

    Attributes:
        verdict: what it got; empty where the machine failed.
        right: it is among the expected ones.
        rung: at which the climb ended.
        guards: that said no.
        message: of the last rung, or the machine's error.
    """

    id: str
    family: str
    title: str
    expected: tuple[Verdict, ...]
    verdict: Verdict | None
    right: bool
    rung: Rung | None
    guard: str
    guards: tuple[str, ...]
    message: str
    seconds: float
    isolation: str = ""

    @property
    def kind(self) -> str:
        """`cheat`, `honest`, or `disarmed`: what it tries must come to nothing, and then it is as good as honest."""
        return "cheat" if self.expected else "honest" if self.family == "honest" else "disarmed"  # see `Specimen`

    @property
    def passed(self) -> bool:
        """Whether it was taken for correct."""
        return self.verdict is not None and self.verdict.ok


@dataclass(frozen=True)
class Report:
    """All outcomes of one selftest.

    Attributes:
        weakened: guards that were left out on purpose.
        controls: the known-good candidates between the specimens.
        left: ids of what time did not suffice for.
    """

    device: str
    lane: str
    weakened: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    controls: tuple[Outcome, ...]
    versions: Mapping[str, str]
    seconds: float
    left: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Every cheat rejected for the right reason, no honest kernel rejected."""
        return bool(self.outcomes) and not self.left and all(o.right for o in (*self.outcomes, *self.controls))

    @property
    def summary(self) -> str:
        """How many of each kind did as they should, in one line."""
        kinds = {"cheat": "cheats rejected for the right reason", "disarmed": "attacks that came to nothing"}
        kinds["honest"] = "honest kernels that passed"
        said = []
        for kind, words in kinds.items():
            some = [o for o in (*self.outcomes, *self.controls) if o.kind == kind]
            if some:
                said.append(f"{sum(o.right for o in some)} of {len(some)} {words}")
        if self.left:
            said.append(f"{len(self.left)} not run: {', '.join(self.left)}")
        return "; ".join(said) or "no specimen"

    @property
    def through(self) -> tuple[Outcome, ...]:
        """Cheats that were taken for correct."""
        return tuple(o for o in self.outcomes if o.expected and o.passed)


def line_of(outcome: Outcome, weakened: Sequence[str] = ()) -> str:
    """One outcome in one line; where guards were left out, nothing is said of right and wrong."""
    if weakened:
        found = f"{outcome.verdict or 'INFRA'} at {outcome.rung or '-'}"
        return f"     {outcome.id:12} {outcome.seconds:5.1f} s  {found}, without {', '.join(weakened)}"
    sign = "ok  " if outcome.right else "FAIL"
    expected = "/".join(outcome.expected) or "OK_*"
    where = outcome.rung or "-"
    said = f"{sign} {outcome.id:12} {outcome.seconds:5.1f} s  {outcome.verdict or 'INFRA'} at {where}"
    return said if outcome.right else f"{said}, expected {expected}: {outcome.message[:200]}"
