"""The ladder: cheapest "no" first, and each rung says what it saw.

In: a Candidate, the Bench of its problem, a platform and, where there is one, a device. Out: an Evaluation. Left to
others: each rung has its own file (`check`, `building`, `correct`, `tune`, `timing`). A candidate's fault ends the
climb with a verdict; the machine's fault is raised and the candidate is not scored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from kernelevolve.candidate import Candidate, Choice
from kernelevolve.evaluate.artefacts import Gathered, Keep
from kernelevolve.evaluate.asking import refuses
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder, Built
from kernelevolve.evaluate.check import Finding, check_source
from kernelevolve.evaluate.circumstances import circumstances
from kernelevolve.evaluate.climb import Climb, Progress, Reached
from kernelevolve.evaluate.correct import BOUNDS, Bounds, Failed, Trial, Unseen, addresses, compare
from kernelevolve.evaluate.hidden import DECLARED_ONLY, compare_hidden
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.modelling import Costs, Modelling
from kernelevolve.evaluate.on_device import OnDevice
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.structure import examine
from kernelevolve.evaluate.talk import Talk
from kernelevolve.evaluate.tune import Group, Tuning, chooses_configs, tuning
from kernelevolve.evaluate.twins import Twins, repeated
from kernelevolve.evaluation import (
    Evaluation,
    Evidence,
    Rung,
    RungReport,
    Verdict,
)
from kernelevolve.platforms import Platform
from kernelevolve.protocol import Case, Description
from kernelevolve.settings import Lane, Settings, lane_for

# Of this process. A climb mostly waits, for a child or for its turn on a device: how many there are is for
# `Settings.seats` to say, and not for asyncio's own pool, which has four threads more than there are processors.
_CLIMBS = ThreadPoolExecutor(4096, "climb")
_PATIENCE = 0.2  # seconds between two calls of a thread that should stop: it may just have opened a conversation
RAGGED_CASES = 2
SEEN_CASES = 2  # interpreted in a screen where a device is about to compare all of them at full size
TUNED_CASES = 2


class Ladder:
    """Evaluates candidates of one problem for one platform.

    Attributes:
        pinned: choices by workload that are judged as they are, in place of tuning; empty to tune.
        secret: of an earlier evaluation whose inputs are drawn again; None for new ones in each.
    """

    def __init__(
        self,
        bench: Bench,
        platform: Platform,
        settings: Settings,
        costs: Costs,
        *,
        seed: int,
        device: Device | None = None,
        interpret: bool = True,
        bounds: Bounds = BOUNDS,
        lane: Lane | None = None,
        candidates: int = 1,
        builder: Builder | None = None,
        twins: Twins | None = None,
    ) -> None:
        """For one platform.

        Args:
            lane: how closely to look; default: the one that the settings name.
            interpret: false leaves that rung out, where a device will compare the values at full size anyway.
            bounds: what a candidate may use.
            candidates: how many are measured of which the best will be taken as the result: intervals are wider then.
            builder: that of another ladder of the same platform, to share its processes.
            twins: what was measured in this session, so that nobody who was built to the same launches is measured
                again in a search on a device; None to measure everybody.
        """
        self.bench, self.platform, self.settings = bench, platform, settings
        self.seed, self.device, self.interpret = seed, device, interpret or device is None
        self.bounds, self.lane = bounds, lane or lane_for(settings.lane)
        self.pinned: Mapping[str, Mapping[str, Choice]] = {}
        self.secret: bytes | None = None
        self.candidates = candidates
        self.twins = twins if device is not None and self.lane.name == "screen" else None
        self.builder = builder or Builder(bench, platform, bounds)
        self.modelling = Modelling(bench, platform, self.builder, costs)

    async def evaluate(self, candidate: Candidate, *, progress: Progress, keep: Keep) -> Evaluation:
        """The candidate's Evaluation; `keep` has stored every artefact that it names.

        Raises:
            StoreError: `keep` could not.
            MachineError: a process or device was lost; nothing is scored.
            ProblemError: the reference fails on these inputs.
        """
        climbing = asyncio.get_running_loop().run_in_executor(_CLIMBS, self.climb, candidate, progress, keep)
        try:
            return await asyncio.shield(climbing)
        except asyncio.CancelledError:
            # The thread is waiting for a child: without one it comes back at once, and nothing of it is told.
            while not climbing.done():
                self.bench.hang_up()
                await asyncio.wait([climbing], timeout=_PATIENCE)
            self.bench.resume()
            climbing.exception()
            raise

    def climb(self, candidate: Candidate, progress: Progress, keep: Keep) -> Evaluation:
        """All rungs in order, in this thread."""
        seeds = Seeds(self.secret or self._shared())
        climb = Climb(candidate, progress, Gathered(self.platform.name), self.lane, self._last(), seeds=seeds)
        built: list[Built] = []
        measured: Twins | None = None
        try:
            finding = self._check(climb)
            knobs = finding.knobs.for_vendor(self.platform.vendor)
            climb.default = {name: allowed[0] for name, allowed in knobs.items()}
            climb.start = climb.choices = {
                w.name: self.pinned.get(w.name, climb.default) for w in self.bench.problem.workloads
            }
            climb.tuning = self._tuning(candidate.source, {} if self.pinned else knobs)
            if len(self.bench.problem.workloads) > 1 and chooses_configs(candidate.source):
                climb.labels.append("one choice for all workloads, as an autotuned kernel's configuration is")
            if self.device and self._seen_full(climb):
                self.device.prepare(self.bench, self.platform.figures.memory_bytes, self._cases(climb))
            with self.bench.roles.cores:
                built = self._build(climb)
                measured = None if climb.last or self.pinned else self.twins
                if measured and (twin := measured.of(candidate, knobs, built, self.builder)):
                    return repeated(twin, climb.reports, self.platform.name)
                if self.interpret:
                    self._interpret(climb)
            if self.device:
                verdict = self._on(self.device).climb(climb, self._cases(climb), self._looked_at(climb))
            else:
                verdict = self._model(climb)
        except Failed as failed:
            climb.refused(failed)
            verdict = failed.verdict
        except Reached:
            verdict = climb.stopped()
        self._always_on(climb, verdict)
        seat = (self.device.torch_name, self.device.name) if self.device else ("", "")
        climb.gathered.circumstances = circumstances(*seat, climb.seeds.secret)
        climb.isolation = self.bench.roles.isolation or climb.isolation
        found = climb.evaluation(verdict, self.bench.roles["builder"].known_versions(), self.bench.labels, keep)
        if measured and built:
            measured.tell(candidate, knobs, built, found)
        return found

    def _always_on(self, climb: Climb, verdict: Verdict) -> None:
        """What the two guards found that are no rung and no test of their own."""
        allowed = self.bench.problem.library_calls != "forbidden"
        if verdict is Verdict.POLICY:
            climb.guard("census", "failed", climb.reports[-1].message)
        elif climb.gathered.plans and not allowed:
            climb.guard("census", "held", "forward ran no PyTorch operation but views, allocations, fills and copies")
        elif allowed:
            climb.guard("census", "not run", "the problem allows library calls")
        if verdict is Verdict.TAMPER:
            climb.guard("frames", "failed", climb.reports[-1].message)
        elif climb.correctness:
            climb.guard("frames", "held", "every answer of the worker was one that it had been asked for")

    def _shared(self) -> bytes | None:
        """The bench's secret: a screen on a device draws the same inputs for all candidates of one session, so that
        their oracles are computed once. Where nothing keeps a candidate from what others left, each has its own.
        """
        return self.bench.secret if self.device and self.lane.name == "screen" and self.bench.roles.sealed else None

    def _last(self) -> Rung | None:
        """The last rung to climb, None for all. Values are compared on the device or, where there is none, by the
        interpreter, and there nothing is timed after tuning."""
        last = Rung(self.settings.last_rung or Rung.TIME)
        if last in (Rung.INTERPRET, Rung.CORRECT):
            return Rung.INTERPRET if not self.device else last if self.interpret else Rung.CORRECT
        return None if last in (Rung.TIME, Rung.PROFILE) or (last is Rung.TUNE and not self.device) else last

    def _check(self, climb: Climb) -> Finding:
        finding = check_source(climb.candidate.source)

        def work() -> str:
            if finding.verdict is not None:
                raise Failed(finding.verdict, finding.message)
            climb.labels += finding.hints
            return finding.message

        climb.rung(Rung.CHECK, work)
        return finding

    def _tuning(self, source: str, knobs: Mapping[str, tuple[Choice, ...]]) -> Tuning:
        trials = self.settings.tuner_trials if self.device else self.settings.build_trials
        described = {d.variant.workload: d for d in self._full()}
        return tuning(source, knobs, self.bench.problem.workloads, described, seed=self.seed, trials=trials)

    def _build(self, climb: Climb) -> list[Built]:
        built: list[Built] = []

        refused: list[Failed] = []

        def plan() -> str:
            source, unfit = climb.candidate.source, {}
            for group in climb.tuning.groups:
                try:
                    built.extend(self.builder.build(source, climb.default, group.workloads))
                except Failed as failed:
                    if failed.verdict is not Verdict.COMPILE_ERROR:
                        raise
                    unfit[group.key] = failed
            for group in climb.tuning.groups:
                if group.key in unfit and not (built and self._start_elsewhere(climb, group, built)):
                    refused.append(unfit[group.key])  # the plan stands: it is the next rung that says no
                    return "launches that do not compile"
            climb.gathered.planned(b.plan for b in built)
            launches = sum(len(b.plan.launches) for b in built)
            said = f"{launches} launch{'es' * (launches != 1)} for {len(built)} workload{'s' * (len(built) > 1)}"
            backward = sum(len(b.gradients.launches) for b in built if b.gradients)
            said += f", {backward} with gradients" if backward else ""
            unrecorded = next((b.unrecorded for b in built if b.unrecorded), "")
            return f"{said}; what autograd launches is not recorded: {unrecorded}" if unrecorded else said

        climb.rung(Rung.PLAN, plan)

        def build() -> str:
            if refused:
                raise refused[0]
            climb.resources = built[0].resources
            return self.builder.describe(climb.resources)

        climb.rung(Rung.BUILD, build)
        return built

    def _start_elsewhere(self, climb: Climb, group: Group, built: list[Built]) -> bool:
        """Whether another choice builds for these workloads; it takes the place of the default, which suits others."""
        source, ranked = climb.candidate.source, group.tuner.afresh()
        while choices := ranked.ask_some():
            for choice, found in zip(choices, self.builder.build_some(source, choices, group.workloads), strict=True):
                ranked.tell(choice, None)
                if not isinstance(found, Failed):
                    built.extend(found)
                    climb.start = {**climb.start, **dict.fromkeys(group.workloads, choice)}
                    climb.choices = climb.start
                    return True
        return False

    @staticmethod
    def _cases_of(climb: Climb, distributions: Sequence[str], seeds: int) -> list[Case]:
        """Inputs that nobody foresees: from the secret of this climb and not from the run's seed."""
        return [climb.seeds.case(f"correct/{s}", distribution) for distribution in distributions for s in range(seeds)]

    def _cases(self, climb: Climb) -> list[Case]:
        used = self.bench.admitted(self.settings.distributions)
        wanted = [d for d in self.settings.distributions if d in used]
        return self._cases_of(climb, wanted, self.settings.seeds)

    def _interpret(self, climb: Climb) -> None:
        names = [w.name for w in self.bench.problem.workloads]
        self._compare_small(climb, self._cases(climb), names, self._looked_at(climb))

    def _looked_at(self, climb: Climb) -> list[str]:
        """Workloads with structure tests and hidden sizes: a screen is short."""
        if not (climb.lane.structure or climb.lane.hidden):
            return []
        names = [w.name for w in self.bench.problem.workloads]
        return names if climb.lane.name != "screen" else names[:1]

    def _compare_small(
        self, climb: Climb, cases: Sequence[Case], workloads: Sequence[str], looked_at: Sequence[str] = ()
    ) -> None:
        """Compares at the sizes that the interpreter runs; at `looked_at` with structure tests."""

        def then(talk: Talk) -> None:
            climb.labels += examine(talk, climb.lane, climb.seeds, climb.guard)

        def work() -> str:
            checks = 0
            small = [d for d in self.bench.small() if d.variant.workload in workloads]
            for description in small:
                enough = 0
                if description.variant.size == "ragged":
                    enough = RAGGED_CASES  # the values are the scaled size's job, the edges this one's
                elif self._seen_full(climb):
                    enough = SEEN_CASES  # the values of all of them are the device's job, faults this one's
                trial = Trial(
                    climb.candidate.source,
                    climb.choices[description.variant.workload],
                    description,
                    "cpu",
                    self.platform.device_answers(),
                    self.bounds,
                )
                further = description.variant.size == "scaled" and description.variant.workload in looked_at
                try:
                    found, climb.isolation = compare(
                        self.bench, trial, cases, Evidence.INTERPRETED, then if further else None, enough=enough
                    )
                except Failed as failed:
                    # Ragged sizes are ours and not the problem's: a candidate may say that it does not compute them.
                    if description.variant.size != "ragged" or not refuses(failed):
                        raise
                    climb.labels.append(DECLARED_ONLY)
                    continue
                climb.correctness.append(found)
                checks += len(found.checks)
                if further:
                    self._hidden(climb, trial)
            sizes = ", ".join(d.variant.label for d in small)
            places = [
                addresses(self.bench, replace(trial, description=d, choice=climb.choices[d.variant.workload]))
                for d in self._full()
                if d.variant.workload in workloads and not self._seen_full(climb)
            ]
            place = places[0] if places else "addresses at full size are left to the device"
            return f"{checks} checks on {sizes}; {place}; not seen here: {', '.join(found.not_seen)}"

        try:
            climb.rung(Rung.INTERPRET, work)
        except Unseen:
            if self.device is None:
                raise
            # The device will see what the interpreter cannot.
            climb.reports[-1] = replace(climb.reports[-1], status="skipped")

    def _seen_full(self, climb: Climb) -> bool:
        """Whether a screen compares all cases at full size in a moment."""
        if self.device is None or climb.lane.name != "screen" or climb.last is not None:
            return False
        return len(self._cases(climb)) <= self.device.full_cases

    def _hidden(self, climb: Climb, trial: Trial) -> None:
        """Sizes that no file names: in a screen the same for all candidates of a session, since none is told them."""
        if not climb.lane.hidden:
            return
        screen, workload = climb.lane.name == "screen", trial.description.variant.workload
        seeds = Seeds(self.bench.secret) if screen else climb.seeds
        sizes = self.bench.hidden(workload, trial.device, seeds.seed(f"hidden/{workload}"), climb.lane.hidden)
        climb.labels += compare_hidden(
            self.bench, trial, sizes, climb.seeds, Evidence.INTERPRETED, climb.guard, keep=screen
        )

    def _full(self) -> list[Description]:
        return [self.bench.full(w.name) for w in self.bench.problem.workloads]

    def _on(self, device: Device) -> OnDevice:
        return OnDevice(
            self.bench, self.platform, self.builder, self.modelling, device,
            candidates=self.candidates, secret=self.secret,
        )  # fmt: skip

    def _model(self, climb: Climb) -> Verdict:
        """Without a device: tunes by build and model, and models the full-size time."""
        climb.rung(Rung.TUNE, lambda: self.modelling.tune(climb))
        best = self.modelling.build_tuned(climb)
        changed = [name for name, choice in climb.choices.items() if choice != climb.start[name]]
        if changed:
            # A few cases are enough here: the values were compared in full at the default choice.
            few = self._cases(climb)[:: self.settings.seeds][:TUNED_CASES]
            climb.labels.append(
                f"compared in full at the default knobs, at the tuned ones on inputs "
                f"{' and '.join(case.distribution for case in few)} only"
            )
            self._compare_small(climb, few, changed)
        climb.resources = best[0].resources
        if self.bench.problem.direction != "forward":
            climb.labels.append("modelled time is that of forward alone")
        climb.timings = tuple(self.modelling.timing(climb, built) for built in best)
        climb.diagnosis = self.modelling.limit(climb, best[0])
        message = f"no device: {climb.timings[0].candidate.value:.4g} ms modelled for {self.platform.name}"
        climb.reports.append(RungReport(Rung.TIME, "skipped", 0.0, message, self.platform.name))
        return Verdict.OK_UNTIMED
