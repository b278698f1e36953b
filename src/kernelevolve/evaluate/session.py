"""One candidate timed on one workload: fresh processes, new inputs for every call, every timed call compared.

In: the bench, a device, a candidate at a choice, a lane, the secret. Out: for each mode a `Timed`, and what each guard
of timing found. Left to others: the arms and their comparison (`arms`), order and interval (`timing`), the cross-check
of the clock (`consistency`), what the driver says (`watch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from kernelevolve.candidate import Choice
from kernelevolve.evaluate import graphs, kernels
from kernelevolve.evaluate.arms import Arm, Call, Looks, first_look, shape_for, turns_of
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.consistency import Consistency, consistency, sharpen
from kernelevolve.evaluate.correct import Failed, Trial, candidate_asks
from kernelevolve.evaluate.floor import compulsory
from kernelevolve.evaluate.roles import Conversation
from kernelevolve.evaluate.room import screen_slots
from kernelevolve.evaluate.seat import Stay, Undisturbed
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.stalls import Queue, Stalls
from kernelevolve.evaluate.timing import (
    BURSTS,
    CANDIDATE,
    Blocks,
    Burst,
    NothingCounts,
    Plan,
    Timed,
    calls_per_burst,
    interleave,
    time_arms,
)
from kernelevolve.evaluate.watch import Watch
from kernelevolve.evaluation import Evidence, Figure, Guard, Verdict
from kernelevolve.hardware import HardwareFigures
from kernelevolve.protocol import Case
from kernelevolve.settings import Lane
from kernelevolve.wire import Message

SCREEN_WARM = 0.25  # of the usual time
WARM_SECONDS = {"cuda": 0.2, "cpu": 0.02}  # of work, so that clocks are up
FLOOR = 0.9  # of the least time: peaks and clocks are known no better
SLOW_MS = 10.0
SHORTEST_MS = 1e-4  # of a call that does nothing at all
SHORT_MS = 0.1  # of a baseline, up to which a screen looks more sharply at claims
OVERLOOKED = 0.25  # of the claimed time, which the wide look may overlook before that
SLOWED, SLOWED_MS, SLOWED_LOOKS = 1.5, 0.005, 3  # by what a baseline may be slower beside a candidate than without
PILOT_ROUNDS = 5  # in a screen, where it decides against whom all candidates are timed
PILOT_HOW = "median of the first look at the baselines, not interleaved with a candidate"
_MORE_BLOCKS = 12  # before anybody is accused of a false clock
GUARDS = ("fresh-inputs", "timed-outputs", "clock", "floor")


class Place(Protocol):
    """The device: its name, and warm baselines kept from one candidate to the next."""

    torch_name: str
    name: str
    pilots: dict[tuple[str, str, str], Mapping[str, float]]

    def warm_baselines(
        self, bench: Bench, workload: str, body: Mapping[str, Any]
    ) -> tuple[dict[str, Conversation], Mapping[str, Any]]: ...

    def hold(self, bench: Bench, judge: Conversation, body: Mapping[str, Any]) -> None: ...

    def worker(
        self, bench: Bench, workload: str, source: str, choice: Mapping[str, Choice], *, queues: int = 0
    ) -> Conversation: ...


@dataclass(frozen=True)
class Measured:
    """What timing one workload gave: one entry per mode, and what each guard found."""

    timed: tuple[Timed, ...]
    guards: tuple[Guard, ...]


class Session:
    """One candidate, one workload, one process of its own.

    In a screen it gets ready beside others, is timed alone, and what is left to compare then is compared beside others
    again; only the baseline is taken along that was the fastest at first sight, the same for all candidates.

    Args:
        figures: of the platform, for the floor; None where nobody knows them.
        candidates: how many are measured of which the best will be taken.
        blocks: in place of the lane's.
        distribution: of the inputs of timed calls; one on which passing means something.
        worker: that has the candidate already; a fresh one if None, which is ended here.
        visit: of a candidate that shares the device.
    """

    def __init__(
        self,
        bench: Bench,
        place: Place,
        trial: Trial,
        lane: Lane,
        seeds: Seeds,
        *,
        figures: HardwareFigures | None = None,
        candidates: int = 1,
        blocks: Blocks | None = None,
        distribution: str = "declared",
        worker: Conversation | None = None,
        visit: Stay | None = None,
    ) -> None:
        self._kept, self.visit = worker, visit or Undisturbed()
        self.screen = lane.name == "screen"
        self.bench, self.place, self.trial, self.lane, self.seeds = bench, place, trial, lane, seeds
        self.figures, self.candidates = figures, candidates
        self.blocks = blocks or Blocks(lane.blocks, lane.doublings, lane.most)
        self.workload = trial.description.variant.workload
        self.state = seeds.seed(f"time/{self.workload}/state")
        self.distribution = distribution
        self.guards: list[Guard] = []

    def measure(self) -> Measured:
        """Times every mode of the lane, the cold one first.

        Raises:
            Failed: a timed call was wrong, or its time cannot be true.
            ProblemError, SeatLost: not the candidate's fault.
        """
        trial = self.trial
        worker = self._kept
        try:
            self.visit.give_way()
            if worker is None:
                worker = self.place.worker(
                    self.bench, self.workload, trial.source, trial.choice, queues=trial.queues
                )
            judges, facts = self.place.warm_baselines(self.bench, self.workload, self._warm_body(self._seed("warm")))
            modes = (m for m in self.lane.modes if m != graphs.MODE or self._captured(worker, judges))
            timed = tuple(self._mode(mode, worker, judges, facts) for mode in modes)
            self._kernels(worker, timed)
            self._unslowed(worker, judges, facts, timed)
        finally:
            if worker is not None and worker is not self._kept:
                worker.end()
        return Measured(timed, tuple(self.guards))

    def _kernels(self, worker: Conversation, timed: Sequence[Timed]) -> None:
        """Has a second instrument look at calls, after all that is timed: a profiler slows what comes after it."""
        cold = [t.timing.candidate.value for t in timed if t.timing.mode == "cold"]
        if kernels.GUARD not in self.lane.defences or not cold:
            return
        ask = partial(candidate_asks, worker, seconds=self.trial.bounds.call_seconds)
        try:
            self.guards.append(kernels.counted(ask, self.workload, cold[0]))
        except Failed as failed:
            failed.knowing(workload=self.workload, size="full", device=self.place.torch_name)
            raise

    def _unslowed(
        self, worker: Conversation, judges: Mapping[str, Conversation], facts: Mapping[str, Any], timed: Sequence[Timed]
    ) -> None:
        """Refuses a candidate beside whose process the baseline takes longer than without it; that process is ended for
        a look at the baseline alone: always but in a screen, there if the baseline was quicker at first sight."""
        cold = [t.timing for t in timed if t.timing.mode == "cold"]
        if "clock" not in self.lane.defences or self.place.torch_name == "cpu" or not cold:
            return
        name = cold[0].against
        took = cold[0].baselines[name].value

        def slowed(alone: float) -> bool:
            return took > SLOWED * alone + SLOWED_MS

        if self.screen and not slowed(self._pilots("cold", judges, facts)[name]):
            return
        worker.end()
        slots = int(facts["slots"])
        turns = turns_of(self.seeds, f"time/{self.workload}/without", slots, self.state, self.distribution)
        with self.visit.alone():
            looks = [
                first_look({name: self._judge_asks(judges[name])}, turns, slots, "cold", PILOT_ROUNDS)[name]
                for _ in range(SLOWED_LOOKS)
            ]
        if slowed(max(looks)):
            told = f"{name} takes {took:.4g} ms beside the candidate and {max(looks):.4g} ms once its process has ended"
            raise self._refused("clock", Verdict.TAMPER, told)

    def _captured(self, worker: Conversation, judges: Mapping[str, Conversation]) -> bool:
        """Whether all arms are there as CUDA graphs; the last mode, since a capture that fails may leave traces."""
        asks: dict[str, graphs.Ask] = {
            CANDIDATE: partial(candidate_asks, worker, seconds=self.trial.bounds.call_seconds)
        }
        asks |= {name: partial(self.bench.judged, judge) for name, judge in judges.items()}
        warm = self._warm_body(self._seed("graph/warm"))
        self.guards.append(graphs.captured(asks, self.workload, {**warm, "seconds": 0.0}))
        return self.guards[-1].held == "held"

    def _warm_body(self, seed: int, *, slots: int = 0, hold: int = 0) -> dict[str, Any]:
        rules = {"seed": seed, "state": self.state, "distribution": self.distribution}
        seconds = WARM_SECONDS[self.place.torch_name.partition(":")[0]]
        if self.screen:  # the device is at work already
            seconds *= SCREEN_WARM
        most = screen_slots(self.trial.description) if self.screen else 0
        return {**rules, "seconds": seconds, "slots": slots, "most": most, "hold": hold}

    def _seed(self, label: str) -> int:
        # Slots are filled from seed, seed + 1, ...: room for them below 2^63.
        return self.seeds.seed(f"time/{self.workload}/{label}") >> 1

    def _mode(
        self, mode: str, worker: Conversation, judges: Mapping[str, Conversation], facts: Mapping[str, Any]
    ) -> Timed:
        pilots = self._pilots(mode, judges, facts)
        arms, looks = self._arms(mode, worker, judges, facts, pilots)
        candidate, shape = arms[CANDIDATE], arms[CANDIDATE].shape
        shortest = SHORTEST_MS if "clock" in self.lane.defences else 0.0
        block_calls = BURSTS // 2 * (shape.calls + shape.longer)

        def burst(calls: int) -> Sequence[float]:
            times = candidate(calls)
            if not all(math.isfinite(ms) and ms >= shortest for ms in times):
                told = f"the worker reports {', '.join(f'{ms:.3g}' for ms in times)} ms for calls"
                raise self._refused("clock", Verdict.TIMER_INCONSISTENT, f"{told}; nothing takes below {SHORTEST_MS:g}")
            if looks is not None and shape.by_burst:
                looks.look(candidate, candidate.number)
                candidate.compared()
            return times

        def look(block: int) -> None:
            if looks is not None and candidate.pending and len(candidate.pending) + block_calls > shape.hold:
                looks.look(candidate, block)
                candidate.compared()

        def before(block: int) -> None:
            if self.screen:  # what fits is compared once others may be on the device again
                look(block)

        def after(block: int) -> None:
            if not self.screen:
                look(block)
            for arm in arms.values():
                arm.next_block(keep=arm is candidate and looks is not None)

        def settle() -> None:
            """Before a burst of all slots: what is held is compared if it leaves no room, and another block begins."""
            if looks is not None and candidate.pending and len(candidate.pending) + shape.slots + 1 > shape.hold:
                looks.look(candidate, len(candidate.blocks))
                candidate.compared()
            for arm in arms.values():
                arm.next_block(keep=arm is candidate and looks is not None)

        def one_more(block: int) -> None:
            before(block)
            interleave(bursts, block, shape.calls, shape.longer)
            after(block)

        bursts: dict[str, Burst] = {**arms, CANDIDATE: burst}
        plan = Plan(self.blocks, shape.calls, shape.longer, mode, self.candidates)
        index = self.place.torch_name.partition(":")[2] if self.place.torch_name.startswith("cuda") else ""
        watch = Watch(int(index or 0) if self.place.torch_name.startswith("cuda") else None, worker.root)
        with self.visit.alone(), watch.watching():
            try:
                timed = time_arms(
                    bursts,
                    workload=self.workload,
                    platform="",
                    choice=self.trial.choice,
                    plan=plan,
                    device=self.place.name,
                    before=before,
                    after=after,
                    watch=Stalls(arms, watch) if self.place.torch_name != "cpu" else watch,
                )
            except NothingCounts as error:
                raise Failed(Verdict.INCONCLUSIVE, str(error)) from error
            if watch.beside > 1:
                told = f"{watch.beside} processes of the candidate are on the device while it is timed"
                raise self._refused("clock", Verdict.TAMPER, f"{told}; a kernel needs one")
            self._clock(arms, timed, one_more, settle)
        if looks is not None and candidate.pending:
            self.visit.give_way()
            looks.look(candidate, len(candidate.blocks))
        self.visit.give_way()
        self._floor(mode, timed)
        self._report(mode, arms, looks, watch)
        left_out = {
            name: Figure(ms, "ms", Evidence.MEASURED, f"{self.place.name}: {PILOT_HOW}")
            for name, ms in pilots.items()
            if name not in arms
        }
        return replace(timed, timing=replace(timed.timing, aside=left_out))

    def _pilots(self, mode: str, judges: Mapping[str, Conversation], facts: Mapping[str, Any]) -> Mapping[str, float]:
        """Milliseconds of a call of each baseline; in a screen those of the first candidate, so all have the same."""
        key = (self.bench.problem.key, self.workload, mode)
        if self.screen and key in self.place.pilots:
            return self.place.pilots[key]
        slots = int(facts["slots"])
        turns = turns_of(self.seeds, f"time/{self.workload}/{mode}", slots, self.state, self.distribution)
        asks = {name: self._judge_asks(judge) for name, judge in judges.items()}
        with self.visit.alone():
            if not self.screen or key not in self.place.pilots:  # others may have waited for the same
                self.place.pilots[key] = first_look(asks, turns, slots, mode, PILOT_ROUNDS if self.screen else 1)
        return self.place.pilots[key]

    def _judge_asks(self, judge: Conversation) -> Any:
        return lambda kind, body: self.bench.judged(judge, kind, body)

    def _arms(
        self,
        mode: str,
        worker: Conversation,
        judges: Mapping[str, Conversation],
        facts: Mapping[str, Any],
        pilots: Mapping[str, float],
    ) -> tuple[dict[str, Arm], Looks | None]:
        def worker_asks(kind: str, body: Mapping[str, Any]) -> Message:
            return candidate_asks(worker, kind, body, seconds=self.trial.bounds.call_seconds)  # type: ignore[no-any-return]

        label = f"time/{self.workload}/{mode}"
        slots, output, free = int(facts["slots"]), int(facts["output"]), int(facts["free"])
        turns = turns_of(self.seeds, label, slots, self.state, self.distribution)
        fastest = min(pilots.values())
        calls, slow = calls_per_burst(fastest, short=self.screen), fastest >= SLOW_MS
        shape = shape_for(calls, slow, slots, output, free, blocks=self.blocks.count if self.screen else 0)
        # The same calls on the same slots; only what is compared together is held for longer than a block.
        theirs = replace(shape, hold=shape.block)
        timed = {n: j for n, j in judges.items() if not self.screen or pilots[n] == fastest}
        seed = self._seed(f"{mode}/warm")
        self.visit.give_way()
        worker_asks("warm", self._warm_body(seed, slots=slots, hold=shape.hold))
        self.visit.give_way()
        for judge in timed.values():
            self.place.hold(self.bench, judge, {**self._warm_body(seed, slots=slots, hold=theirs.hold), "seconds": 0.0})
        arms = {CANDIDATE: Arm(worker_asks, turns, shape, mode, Queue(worker.root))}
        for name, judge in timed.items():
            arms[name] = Arm(self._judge_asks(judge), turns, theirs, mode, Queue(judge.root))
        for arm in arms.values():
            arm.number = 1  # number 0 was the pilot's
        if "timed-outputs" not in self.lane.defences:
            return arms, None
        looks = Looks(
            self.bench, self.trial.description, self.place.torch_name, worker, self.trial.key, self.lane.verified,
            self.seeds, label, self.trial.bounds.call_seconds, self.visit,
        )  # fmt: skip
        looks.started([Call(i, Case(seed + i, self.distribution, state=self.state)) for i in range(slots)])
        return arms, looks

    def _clock(
        self,
        arms: Mapping[str, Arm],
        timed: Timed,
        one_more: Callable[[int], None],
        settle: Callable[[], None],
    ) -> None:
        """Refuses times that this process's own clock contradicts; looks longer before it does."""
        if "clock" not in self.lane.defences:
            return
        against = timed.timing.against
        if names := [name for name in arms[CANDIDATE].replaced if name not in arms[against].replaced]:
            raise self._refused("clock", Verdict.TIMER_INCONSISTENT, f"the candidate has replaced {', '.join(names)}")
        found = self._consistency(arms, against)
        if not found.holds:
            done = len(arms[CANDIDATE].blocks)
            for block in range(done, done + _MORE_BLOCKS):
                one_more(block)
            found = self._consistency(arms, against)
        if not found.holds:
            raise self._refused("clock", Verdict.TIMER_INCONSISTENT, f"{found}")
        sharper = ""
        if not self.screen or self._doubtful(found, timed):
            sharper = self._sharpened(arms[CANDIDATE], arms[against], settle)
        self._held("clock", f"{found}{sharper}", ran=found.blocks >= 2)

    @staticmethod
    def _doubtful(found: Consistency, timed: Timed) -> bool:
        """Whether a short call is claimed to be faster, and the wide look may have overlooked much of what it takes."""
        claimed, usual = timed.timing.candidate.value, timed.timing.baselines[timed.timing.against].value
        faster = timed.verdict is Verdict.OK_FASTER
        return faster and usual <= SHORT_MS and found.limit + found.noise > OVERLOOKED * claimed

    def _sharpened(self, candidate: Arm, baseline: Arm, settle: Callable[[], None]) -> str:
        """Looks more sharply at the clock where that is possible: short calls on a device."""
        if candidate.mode != "cold" or self.place.torch_name == "cpu":
            return ""
        settle()
        longest = min(candidate.shape.slots - candidate.shape.untimed, candidate.shape.hold - 1)
        sharp = sharpen(candidate, baseline, longest, settle)
        if not sharp.holds:
            raise self._refused("clock", Verdict.TIMER_INCONSISTENT, f"{sharp}")
        return f"; {sharp}"

    @staticmethod
    def _consistency(arms: Mapping[str, Arm], against: str) -> Consistency:
        blocks = [arms[name].blocks for name in (CANDIDATE, against)]
        return consistency([b for b in blocks[0] if b], [b for b in blocks[1] if b])

    def _floor(self, mode: str, timed: Timed) -> None:
        """Refuses cold times below what moving the compulsory bytes takes."""
        if "floor" not in self.lane.defences or mode != "cold":
            return
        if self.figures is None:
            self.guards.append(Guard("floor", "not run", "the bandwidth of this device is not known"))
            return
        case = Case(self.seeds.seed(f"time/{self.workload}/floor"), self.distribution, state=self.state)
        moved = compulsory(self.bench, self.trial.description, self.place.torch_name, case, self.visit)
        least = (moved["read"] + moved["written"]) / self.figures.bandwidth * 1e3
        took = timed.timing.candidate.value
        counted = ", ".join(f"{name} {share:.2g}" for name, share in moved["shares"]) or "nothing proved"
        said = (
            f"{self.workload}: {took:.4g} ms, least {least:.4g} ms for {moved['read'] / 1e6:.3g} MB read and "
            f"{moved['written'] / 1e6:.3g} MB written at the sheet's {self.figures.bandwidth / 1e12:.3g} TB/s "
            f"(share of each input that must be read: {counted})"
        )
        if took < FLOOR * least:
            raise self._refused("floor", Verdict.BELOW_FLOOR, said)
        self._held("floor", said)

    def _report(self, mode: str, arms: Mapping[str, Arm], looks: Looks | None, watch: Watch) -> None:
        shape = arms[CANDIDATE].shape
        calls = sum(t.calls for block in arms[CANDIDATE].blocks for t in block)
        if "fresh-inputs" in self.lane.defences:
            self._held(
                "fresh-inputs",
                f"{self.workload} {mode}: {calls} timed calls, each on inputs of its own in one of {shape.slots} slots "
                "whose addresses stay",
            )
        if looks is not None:
            self._held("timed-outputs", f"{self.workload} {mode}: {looks}")
        noted = [watch.absent, *sorted(watch.notes)]
        if any(noted):
            self._held("exclusive", "; ".join(n for n in noted if n), ran=not watch.absent)

    def _held(self, name: str, detail: str, *, ran: bool = True) -> None:
        self.guards.append(Guard(name, "held" if ran else "not run", detail))

    def _refused(self, guard: str, verdict: Verdict, message: str) -> Failed:
        facts = {"guard": guard, "workload": self.workload, "size": "full", "device": self.place.torch_name}
        return Failed(verdict, message, artefact={**facts, "choice": dict(self.trial.choice)})


def worst_of(runs: Sequence[Timed]) -> Timed:
    """Several processes' times of one workload as one: the process with the smallest lower bound, with their spread.

    More repetitions inside one process do not show how much processes differ: the spread is printed beside the worst.
    """
    worst = min(runs, key=lambda t: t.timing.speedup.low or t.timing.speedup.value)
    if len(runs) < 2:
        return worst
    values = [t.timing.speedup.value for t in runs]
    figure = worst.timing.speedup
    how = f"{figure.how}; worst of {len(runs)} processes, which gave {min(values):.4g} to {max(values):.4g}"
    return replace(worst, timing=replace(worst.timing, speedup=replace(figure, how=how)))
