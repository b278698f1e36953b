"""Times where there is no device, and what limits a kernel where there is one: the platform's model, put to a climb.

In: what was built and the cost of each launch. Out: modelled `Timing`s, the diagnosis, the choice that models fastest.
Left to others: the model itself (`platforms`), costs (`translate`), the order of rungs (`ladder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from kernelevolve.candidate import Candidate, Choice
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder, Built
from kernelevolve.evaluate.climb import Climb
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluation import Figure, LaunchPlan, Timing, speedup
from kernelevolve.platforms import Platform
from kernelevolve.platforms.cost import Work, modelled_launch


class Costs(Protocol):
    """Bytes and FLOPs, for the modelled time."""

    def candidate(self, candidate: Candidate, plan: LaunchPlan, choice: Mapping[str, Choice]) -> Sequence[Work]:
        """What each launch of the plan moves and computes."""
        ...

    def baselines(self, workload: str) -> Mapping[str, Sequence[Work]]:
        """The same of each baseline, `eager` and `compile`."""
        ...

    def least(self, workload: str) -> Sequence[Work]:
        """What the reference as written must move and compute, one entry per arithmetic that may be used; empty where
        that is not known."""
        ...


class Modelling:
    """One problem on one platform."""

    def __init__(self, bench: Bench, platform: Platform, builder: Builder, costs: Costs) -> None:
        self.bench, self.platform, self.builder, self.costs = bench, platform, builder, costs

    def tune(self, climb: Climb) -> str:
        """Ranks the choices by build and model; what was tried, in one line."""
        source = climb.candidate.source
        for group in climb.tuning.groups:
            while choices := group.tuner.ask_some():
                some = self.builder.build_some(source, choices, group.workloads)
                for choice, built in zip(choices, some, strict=True):
                    if isinstance(built, Failed):
                        group.tuner.tell(choice, None)
                    else:
                        group.tell(choice, [self._modelled(climb.candidate, b, choice).value for b in built])
        climb.choices = climb.tuning.choices(climb.start)
        return f"{climb.tuning.summary('do not build')} by model"

    def build_tuned(self, climb: Climb) -> list[Built]:
        """Each workload at its own choice."""
        source, names = climb.candidate.source, [w.name for w in self.bench.problem.workloads]
        built = [self.builder.build(source, climb.choices[name], (name,))[0] for name in names]
        climb.gathered.planned(b.plan for b in built)
        return built

    def limit(self, climb: Climb, built: Built) -> str:
        """What the model says limits the slowest launch, as `limit: evidence`; empty where compiled facts say more."""
        if any(r.spill_bytes for r in built.resources):
            return ""
        works = self.costs.candidate(climb.candidate, built.plan, climb.choices[built.plan.workload])
        known = iter(built.for_launches())
        p = self.platform
        times = [
            modelled_launch(p.figures, p.efficiency, p.target.warp_size, w, next(known) if w.compiled else None)
            for w in works
        ]
        work, slowest = max(zip(works, times, strict=True), key=lambda pair: pair[1].seconds)
        limit = {"memory": "bandwidth", "compute": "compute", "launch": "launch"}[slowest.limit]
        total = sum(t.seconds for t in times)
        return (
            f"{limit}: {work.name} takes {slowest.seconds * 1e3:.4g} of {total * 1e3:.4g} ms: memory "
            f"{slowest.memory * 1e3:.4g}, arithmetic {slowest.compute * 1e3:.4g}, launch {slowest.overhead * 1e3:.4g} "
            f"(modelled, {(work.bytes_read + work.bytes_written) / 1e9:.3g} GB)"
        )

    def timing(self, climb: Climb, built: Built) -> Timing:
        """The modelled times of one workload, of the candidate and of the baselines."""
        workload = built.plan.workload
        baselines = {name: self.platform.modelled(w) for name, w in self.costs.baselines(workload).items()}
        against = min(baselines, key=lambda name: baselines[name].value)
        choice = climb.choices[workload]
        ours = self._modelled(climb.candidate, built, choice)
        ratio = speedup(baselines[against], ours)
        return Timing(workload, self.platform.name, ours, baselines, against, ratio, choice, floor=self.floor(workload))

    def floor(self, workload: str) -> Figure | None:
        """The least milliseconds for what the reference states, over the arithmetics that may be used."""
        floors = [self.platform.floor([work]) for work in self.costs.least(workload)]
        return min(floors, key=lambda figure: figure.value, default=None)

    def with_floors(self, timings: Sequence[Timing]) -> tuple[Timing, ...]:
        """Cold times with their floors."""
        return tuple(replace(t, floor=self.floor(t.workload)) if t.mode == "cold" else t for t in timings)

    def _modelled(self, candidate: Candidate, built: Built, choice: Mapping[str, Choice]) -> Figure:
        works = self.costs.candidate(candidate, built.plan, choice)
        return self.platform.modelled(works, built.for_launches())
