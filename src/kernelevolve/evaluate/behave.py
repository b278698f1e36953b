"""Structure tests, ragged and hidden sizes of one workload on a device, in a fresh worker.

In: a candidate at its choice, a device, the lane, the secret. Out: labels; each guard reports. Left to others: the
tests themselves (`structure`, `hidden`), comparing at full size and timing (`measure`).

Guards keep inputs and results beside each other: at full size where these are small, else at the scaled size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kernelevolve.candidate import Choice
from kernelevolve.evaluate.asking import BOUNDS, Bounds, Failed, Trial, refuses
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import compare
from kernelevolve.evaluate.hidden import DECLARED_ONLY, compare_hidden
from kernelevolve.evaluate.sanitizer import GUARD as SANITIZER
from kernelevolve.evaluate.sanitizer import sanitize
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.structure import Report, examine
from kernelevolve.evaluate.talk import Talk, most_bytes
from kernelevolve.evaluation import Evidence
from kernelevolve.protocol import Description
from kernelevolve.settings import Lane

ROOMY_BYTES = 1 << 30  # of inputs, weights and outputs together


@dataclass(frozen=True)
class Behaviour:
    """What is looked at, and how closely.

    Attributes:
        device: torch's name of it.
        distribution: of the regular call that comes first.
        answers: what a stand-in device answers, where the device is `cpu`.
    """

    bench: Bench
    device: str
    lane: Lane
    seeds: Seeds
    distribution: str = "declared"
    answers: Mapping[str, Any] | None = None
    bounds: Bounds = BOUNDS

    def look(self, workload: str, source: str, choice: Mapping[str, Choice], report: Report) -> list[str]:
        """Labels of a candidate on one workload.

        Raises:
            Failed: a guard does not hold.
            ProblemError, SeatLost: not the candidate's fault.
        """
        labels: list[str] = []

        def then(talk: Talk) -> None:
            labels.extend(examine(talk, self.lane, self.seeds, report))

        scaled = self._scaled(workload)
        full = self.bench.full(workload)
        chosen = full if self.device != "cpu" and most_bytes(full) <= ROOMY_BYTES else scaled
        trial = Trial(source, choice, chosen, self.device, self.answers or {}, self.bounds)
        evidence = Evidence.INTERPRETED if self.device == "cpu" else Evidence.MEASURED
        compare(self.bench, trial, [self.seeds.case("behave", self.distribution)], evidence, then)
        if self.lane.hidden:
            screen = self.lane.name == "screen"
            drawn = Seeds(self.bench.secret) if screen else self.seeds
            seed = drawn.seed(f"hidden/{workload}")
            sizes = self.bench.hidden(workload, self.device, seed, self.lane.hidden)
            near = replace(trial, description=scaled)
            labels += compare_hidden(self.bench, near, sizes, self.seeds, evidence, report, keep=screen)
        if self.device != "cpu":
            labels += self._ragged(trial)
        if SANITIZER in self.lane.structure and self.device != "cpu":
            cases = [self.seeds.case("sanitizer", self.distribution)]
            sanitize(self.bench, replace(trial, description=scaled), cases, report)
        return labels

    def _ragged(self, trial: Trial) -> list[str]:
        """One call at sizes that no tile divides: on the CPU the interpreter's part, which not everything can be."""
        workload = trial.description.variant.workload
        for description in self.bench.small():
            if description.variant.workload == workload and description.variant.size == "ragged":
                case = self.seeds.case("ragged", self.distribution)
                try:
                    compare(self.bench, replace(trial, description=description), [case], Evidence.MEASURED)
                except Failed as failed:
                    if not refuses(failed):
                        raise
                    return [DECLARED_ONLY]
                finally:
                    if self.lane.name != "screen":
                        self.bench.forget(description, self.device)
        return []

    def _scaled(self, workload: str) -> Description:
        return next(d for d in self.bench.small() if d.variant.workload == workload and d.variant.size == "scaled")
