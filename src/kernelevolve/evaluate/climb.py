"""One climb of the ladder: what it has seen so far, how a rung is reported, and the Evaluation that it ends in.

In: what the rungs found, guard by guard. Out: an Evaluation. Left to others: the rungs and their order (`ladder`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kernelevolve.candidate import Candidate, Choice
from kernelevolve.evaluate.artefacts import Gathered, Keep
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.tune import Tuning, tuned
from kernelevolve.evaluation import Correctness, Evaluation, Guard, Resources, Rung, RungReport, Timing, Verdict
from kernelevolve.receipt import failure_of
from kernelevolve.seal.layers import seal_guards
from kernelevolve.settings import LANES, Lane

Progress = Callable[[str], None]


class Reached(Exception):
    """The last rung that was asked for has passed."""


_SPECIAL = "special-values"  # the comparison that says what was done to NaN, infinities, -0 and denormals


def labels_of(correctness: Sequence[Correctness]) -> list[str]:
    """What comparisons that passed say of the candidate all the same."""
    said = [c.detail for found in correctness for c in found.checks if c.name == _SPECIAL and c.passed]
    return [detail.partition(": ")[2].partition(" (")[0] for detail in said]


_WORSE = ("not run", "held", "failed")


@dataclass
class Climb:
    """What one climb has seen so far."""

    candidate: Candidate
    progress: Progress
    gathered: Gathered
    lane: Lane
    last: Rung | None = None
    reports: list[RungReport] = field(default_factory=list)
    guards: dict[str, Guard] = field(default_factory=dict)
    correctness: list[Correctness] = field(default_factory=list)
    resources: tuple[Resources, ...] = ()
    timings: tuple[Timing, ...] = ()
    labels: list[str] = field(default_factory=list)
    isolation: str = "none"
    device_seconds: float = 0.0
    diagnosis: str = ""
    default: Mapping[str, Choice] = field(default_factory=dict)
    # By workload: what is compared in full, which is the default wherever that builds, and what is judged.
    start: Mapping[str, Mapping[str, Choice]] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, Choice]] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=lambda: Tuning(()))
    seeds: Seeds = field(default_factory=Seeds)

    def rung(self, rung: Rung, work: Callable[[], str]) -> None:
        """Runs one rung and reports it; `work` returns the line to print and raises `Failed`.

        Raises:
            Failed: it said no.
            Reached: it passed, and is the last one that was asked for.
        """
        self.progress(rung.value)
        start = time.monotonic()
        status: Literal["passed", "failed"] = "passed"
        message: str | None = None
        try:
            message = work()
        except Failed as failed:
            status, message = "failed", f"{failed.verdict.value}: {failed}"
            self.gathered.failed(rung, failed.detail)
            failed.knowing(rung=rung)
            raise
        finally:
            if message is not None:
                seconds = time.monotonic() - start
                self.reports.append(RungReport(rung, status, seconds, message, self.gathered.platform))
        if rung is self.last and rung is not Rung.TUNE:  # what tuning chose is compared before a climb may end with it
            raise Reached

    def held(self, seconds: float) -> None:
        """Takes note of a stay on a device; what is seen again was paid for twice."""
        self.device_seconds += seconds

    def on(self, name: str) -> bool:
        """Whether the lane has the guard `name`."""
        return name in self.lane.structure or name in self.lane.defences

    def guard(self, name: str, held: Literal["held", "failed", "not run"], detail: str = "") -> None:
        """Takes note of what a guard found; over several workloads and rungs the worst counts."""
        before = self.guards.get(name)
        if before is None or _WORSE.index(held) >= _WORSE.index(before.held):
            self.guards[name] = Guard(name, held, detail)

    def mark(self) -> Mapping[str, Any]:
        """What has been seen up to here, for `back_to`."""
        kept = ("reports", "guards", "correctness", "timings", "labels", "choices")
        return {name: copy.copy(getattr(self, name)) for name in kept}

    def back_to(self, mark: Mapping[str, Any]) -> None:
        """Forgets what was seen since: it is to be seen again."""
        for name, value in mark.items():
            setattr(self, name, copy.copy(value))
        self.gathered.forget_errors(r.rung for r in self.reports)

    def stopped(self) -> Verdict:
        """What can be said where `Reached` ended the climb."""
        self.labels.append(f"stopped after rung {self.last}, as asked")
        return Verdict.OK_UNTIMED if self.correctness else Verdict.UNJUDGED

    def refused(self, failed: Failed) -> None:
        """The rung's no that ends this climb, with what replays it."""
        if failed.correctness is not None:
            self.correctness.append(failed.correctness)
        known: dict[str, Any] = {"platform": self.gathered.platform, "lane": self.lane.name, "message": str(failed)}
        # What is built between two rungs belongs to the one before.
        failed.knowing(rung=self.reports[-1].rung if self.reports else Rung.CHECK)
        failure = failure_of(failed.artefact, verdict=failed.verdict, **known)
        if failure.guard:
            self.guard(failure.guard, "failed", str(failed))
        self.gathered.refused(failure)

    def evaluation(
        self, verdict: Verdict, versions: Mapping[str, str], labels: Sequence[str], keep: Keep
    ) -> Evaluation:
        """What was found; every artefact that it names is kept.

        Args:
            labels: of the problem, before the candidate's own.

        Raises:
            StoreError: `keep` could not store one.
        """
        made = Evaluation(
            verdict=verdict,
            platform=self.gathered.platform,
            rungs=tuple(self.reports),
            correctness=tuple(self.correctness),
            resources={self.gathered.platform: self.resources} if self.resources else {},
            timings=self.timings,
            diagnosis=self.diagnosis,
            labels=tuple(dict.fromkeys([*labels, *self.labels, *labels_of(self.correctness)])),
            isolation=self.isolation,
            versions=dict(versions),
            artefacts=self.gathered.hand_over(keep),
            guards=(*self.guards.values(), *self._not_run(), *seal_guards(self.isolation)),
            device_seconds=self.device_seconds,
        )
        if not verdict.ok:
            return made
        choice, table = self.tuning.common(self.start), self.tuning.table(self.start)
        return replace(made, tuned_source=tuned(self.candidate.source, choice, table))

    def _not_run(self) -> list[Guard]:
        """Every guard that some lane has and that did not report, with the reason."""
        names = dict.fromkeys(name for lane in LANES.values() for name in (*lane.structure, *lane.defences))
        here = "this climb did not come to it"
        return [
            Guard(name, "not run", here if self.on(name) else f"not in lane {self.lane.name!r}")
            for name in names
            if name not in self.guards
        ]
