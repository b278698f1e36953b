"""The rungs on a device: full-size values, tuning by measured time, timing.

In: a climb that came as far, a device, cases. Out: a Verdict; the climb knows the rest. Left to others: the rungs
before (`ladder`), what is asked of the device (`measure`), who is on it (`seat`).

In a search candidates are compared side by side and timed one by one, and a candidate is timed in the process in which
its values were right. What a candidate does to its neighbours is not theirs to answer for: whoever fails in a way that
a neighbour may have caused is tried again with nobody else on the device, and that counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kernelevolve.evaluate.behave import Behaviour
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder
from kernelevolve.evaluate.climb import Climb, Reached
from kernelevolve.evaluate.correct import Failed, telling
from kernelevolve.evaluate.health import suspect
from kernelevolve.evaluate.measure import Device, Visit
from kernelevolve.evaluate.modelling import Modelling
from kernelevolve.evaluate.plan_lane import GUARD as PLAN_LANE
from kernelevolve.evaluate.plan_lane import planned
from kernelevolve.evaluate.roles import Conversation
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluation import Rung, Verdict
from kernelevolve.platforms import Platform
from kernelevolve.protocol import Case

_WORST = (Verdict.INCONCLUSIVE, Verdict.OK_SLOWER, Verdict.OK_SAME, Verdict.OK_FASTER)


class OnDevice:
    """Candidates of one problem on one device.

    Args:
        candidates: how many are measured of which the best will be taken.
        secret: of an earlier evaluation whose inputs are drawn again; None for new ones.
    """

    def __init__(
        self,
        bench: Bench,
        platform: Platform,
        builder: Builder,
        modelling: Modelling,
        device: Device,
        *,
        candidates: int,
        secret: bytes | None,
    ) -> None:
        self.bench, self.platform, self.builder, self.modelling = bench, platform, builder, modelling
        self.device, self.candidates, self.secret = device, candidates, secret

    def climb(self, climb: Climb, cases: Sequence[Case], looked_at: Sequence[str]) -> Verdict:
        """All rungs on the device, in this thread.

        Args:
            cases: on which values are compared.
            looked_at: workloads with structure tests and hidden sizes.

        Raises:
            Failed, Reached: as a rung says.
            ProblemError, SeatLost: not the candidate's fault.
        """
        screen, memory = climb.lane.name == "screen", self.platform.figures.memory_bytes
        with self.device.household(self.bench, memory, screen=screen):
            verdict = self._there(climb, cases, looked_at, memory if screen else 0)
        # Only now: modelling needs the reference captured, and nobody should wait for that on the device.
        built = self.modelling.build_tuned(climb)[0]
        climb.resources, climb.diagnosis = built.resources, self.modelling.limit(climb, built)
        climb.timings = self.modelling.with_floors(climb.timings)
        return verdict

    def _there(self, climb: Climb, cases: Sequence[Case], looked_at: Sequence[str], memory: int) -> Verdict:
        before, crowded = climb.mark(), False
        if memory:
            try:
                with contextlib.ExitStack() as outside:
                    outside.enter_context(self.device.seat.anteroom())
                    workers = self._ready(climb)
                    with self.device.visit(self.bench, memory, workers, held=climb.held) as visit:
                        outside.close()
                        try:
                            return self._rungs(climb, visit, cases, looked_at)
                        finally:
                            crowded = visit.crowded
            except Failed as failed:
                if not suspect(failed) or not crowded:
                    self.device.health.after(failed)
                    raise
            climb.back_to(before)
            climb.labels.append("tried again alone on the device, after it failed beside others")
        with self.device.visit(self.bench, held=climb.held) as visit, self.device.health.watched():
            return self._rungs(climb, visit, cases, looked_at)

    def _ready(self, climb: Climb) -> Mapping[str, Conversation]:
        """Workers with the candidate loaded, where it is known at which choice; one that does not load is looked at in
        its turn."""
        if self._tunable(climb) or climb.last is not None:
            return {}
        try:
            return self.device.ready(self.bench, climb.candidate.source, climb.choices)
        except Failed:
            return {}

    @staticmethod
    def _tunable(climb: Climb) -> bool:
        return any(group.tuner.size > 1 for group in climb.tuning.groups)

    def _rungs(self, climb: Climb, visit: Visit, cases: Sequence[Case], looked_at: Sequence[str]) -> Verdict:
        def correct(judged: bool = True) -> str:
            kept = visit if judged and climb.lane.name == "screen" and climb.last is None else None
            found, climb.isolation = self.device.correct(
                self.bench, climb.candidate.source, climb.choices, cases, visit, kept, enough=0 if judged else 1
            )
            climb.correctness += found
            if judged:
                self._behave(climb, telling(found, cases), looked_at)
            checks, worst = sum(len(f.checks) for f in found), max(found, key=lambda f: f.own_error)
            return (
                f"{checks} checks at full size, rms error {worst.own_error:.2g} of the output's spread, "
                f"the reference's own {worst.reference_error:.2g}"
            )

        # One case is enough to see that tuning is worth it; the rest is for the choice that is judged.
        tunable = self._tunable(climb)
        if tunable or climb.last is Rung.CORRECT:
            climb.rung(Rung.CORRECT, lambda: correct(climb.last is Rung.CORRECT))

        def tune() -> str:
            if tunable:
                with visit.alone():
                    self.device.tune(self.bench, self.builder, climb.candidate.source, climb.tuning, climb.default)
            climb.choices = climb.tuning.choices(climb.start)
            return climb.tuning.summary("ruled out")

        climb.rung(Rung.TUNE, tune)
        climb.resources = self.modelling.build_tuned(climb)[0].resources
        climb.rung(Rung.CORRECT, correct)
        if climb.last is Rung.TUNE:
            raise Reached
        verdicts: list[Verdict] = []
        climb.rung(Rung.TIME, lambda: self._time(climb, visit, cases, verdicts.append))
        return min(verdicts, key=_WORST.index)

    def _behave(self, climb: Climb, distribution: str, looked_at: Sequence[str]) -> None:
        """Structure tests and hidden sizes on the device; a screen leaves it at what the interpreter has seen."""
        if climb.lane.name == "screen" and "first-call" in climb.guards:
            return
        place = self.device.torch_name
        behaviour = Behaviour(self.bench, place, climb.lane, climb.seeds, distribution, bounds=self.device.bounds)
        for name in looked_at:
            climb.labels += behaviour.look(name, climb.candidate.source, climb.choices[name], climb.guard)

    def _time(self, climb: Climb, visit: Visit, cases: Sequence[Case], tell: Callable[[Verdict], None]) -> str:
        rules: dict[str, Any] = {"figures": self.platform.figures, "candidates": self.candidates}
        if climb.lane.name == "screen" and not visit.undisturbed:
            with visit.aside():
                self.device.prepare(self.bench, self.platform.figures.memory_bytes).result()
        for workload in self.bench.problem.workloads:
            measured = self.device.time(
                self.bench,
                workload.name,
                climb.candidate.source,
                climb.choices[workload.name],
                lane=climb.lane,
                seeds=Seeds(self.secret),  # of the timed calls: nobody else's
                distribution=telling(climb.correctness, cases),
                visit=visit,
                **rules,
            )
            if climb.on(PLAN_LANE):
                measured = planned(climb, self.builder, self.device, workload.name, cases, measured, rules)
            for guard in measured.guards:
                climb.guard(guard.name, guard.held, guard.detail)
            for timed in measured.timed:
                climb.timings += (replace(timed.timing, platform=self.platform.name),)
                climb.gathered.timed(replace(timed.samples, platform=self.platform.name))
            tell(measured.timed[0].verdict)
        return "; ".join(
            f"{t.workload} {t.candidate.value:.4g} ms, {t.against} {t.speedup.value:.3g}x"
            + (f" {t.mode}" if t.mode != "cold" else "")
            for t in climb.timings
        )
