"""A device: full-size values, tuning by measured time, interleaved timing.

In: a candidate and a choice. Out: what was measured. Left to others: the ladder's order; running (`worker`), the oracle
and the baseline arm (`judge`). One device holds one worker at a time: the ladder takes the `seat` before it gets here,
and plans and builds before it asks for it.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Choice
from kernelevolve.evaluate.ahead import Ahead
from kernelevolve.evaluate.arms import first_look, turns_of
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.building import Builder
from kernelevolve.evaluate.correct import Bounds, Failed, Trial, candidate_asks, compare
from kernelevolve.evaluate.graphs import by_mode
from kernelevolve.evaluate.health import Health
from kernelevolve.evaluate.households import Households
from kernelevolve.evaluate.roles import Conversation
from kernelevolve.evaluate.room import FEW_QUEUES, ROOMY_BYTES, footprint, judges_share, screen_share
from kernelevolve.evaluate.seat import Seat, Share, Stay
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.session import PILOT_ROUNDS, Measured, Session, worst_of
from kernelevolve.evaluate.timing import Blocks, calls_per_burst
from kernelevolve.evaluate.tune import Group, Tuning
from kernelevolve.evaluation import Correctness, Evidence
from kernelevolve.hardware import HardwareFigures
from kernelevolve.protocol import Case, Description
from kernelevolve.settings import LANES, Lane

ON_DEVICE = Bounds(load_seconds=180.0, call_seconds=60.0)
_TUNE_CALLS = 7
_STAYS_WARM = 10.0  # seconds after which a baseline is warmed up at length again
_SEATS: dict[str, Seat] = {}
_HOUSEHOLDS: dict[str, Households] = {}


def _key(bench: Bench) -> str:
    """Of a household: two benches of one problem have judges each."""
    return f"{bench.problem.key}/{id(bench)}"


class Visit:
    """One candidate's stay on a device: its place there, and the workers that have it loaded, by workload.

    Attributes:
        undisturbed: whether it has the device to itself from the beginning.
    """

    def __init__(self, share: Share, workers: dict[str, Conversation], *, undisturbed: bool) -> None:
        self._share = share
        self.workers, self.undisturbed = workers, undisturbed

    @property
    def crowded(self) -> bool:
        """Whether anybody else was on the device during this stay."""
        return self._share.crowded

    def give_way(self) -> None:
        """Lets those by who are to be timed; see `Share`."""
        self._share.give_way()

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else submits work inside; see `Share`."""
        return self._share.alone()

    def aside(self) -> AbstractContextManager[None]:
        """Waits inside without keeping anybody from being timed; see `Share`."""
        return self._share.aside()

    def holding(self, lock: Any) -> AbstractContextManager[Any]:
        """Waits for a lock without keeping anybody from being timed; see `Share`."""
        return self._share.holding(lock)


class Device:
    """One accelerator, named as torch names it: `cuda:0`.

    Attributes:
        name: the product's name, printed with every figure.
        seat: on which a candidate has a place; the same for everybody in this process who names this device.
        households: problems whose judges have memory on it; the same for everybody, too.
        lock: of the baselines' processes.
        pilots: milliseconds of a call of each baseline, by problem, workload and mode, as first looked at.
        blocks: of timing, where it is not the lane's number.
        answers: what it says of itself where the CPU takes its place; a real one is asked by the candidate.
        bounds: what a candidate may use on it.
    """

    def __init__(
        self,
        torch_name: str,
        name: str,
        *,
        blocks: Blocks | None = None,
        full_cases: int,
        answers: Mapping[str, Any] | None = None,
        bounds: Bounds = ON_DEVICE,
    ) -> None:
        self.torch_name, self.name, self.blocks, self.full_cases = torch_name, name, blocks, full_cases
        self.answers: Mapping[str, Any] = answers or {}
        self.bounds = bounds
        self.seat = _SEATS.setdefault(torch_name, Seat())
        self.households = _HOUSEHOLDS.setdefault(torch_name, Households())
        self.lock = threading.RLock()
        self.pilots: dict[tuple[str, str, str], Mapping[str, float]] = {}
        self._warmed: dict[Conversation, tuple[float, Mapping[str, Any]]] = {}  # when, and what it said
        self._holds: dict[Conversation, int] = {}
        self.health = Health(torch_name)
        self._ranking = Seeds()  # of inputs on which nothing is judged
        self._baselines: dict[tuple[str, str, str], Conversation] = {}
        self._short = True  # whether the baselines' rings and contexts are those of a screen
        self._ahead = Ahead(self, self._ranking)

    @contextlib.contextmanager
    def visit(
        self,
        bench: Bench,
        memory: int = 0,
        workers: Mapping[str, Conversation] | None = None,
        *,
        held: Callable[[float], None] | None = None,
    ) -> Iterator[Visit]:
        """A candidate's stay: with `memory`, the device's bytes, beside others as far as that suffices; else alone.

        Args:
            workers: from `ready`; what it has in the end is ended once the place is free: that takes a while.
            held: told in the end how many seconds the device was held for, see `Share`.
        """
        place = self.seat.shared(self._weight(bench, memory)) if memory else self.seat.alone()
        loaded, stay = dict(workers or {}), None
        try:
            with place as stay:
                yield Visit(stay, loaded, undisturbed=not memory)
        finally:
            if stay is not None and held is not None:
                held(stay.seconds)
            for worker in loaded.values():
                worker.end()

    def ready(self, bench: Bench, source: str, choices: Mapping[str, Mapping[str, Choice]]) -> dict[str, Conversation]:
        """Before a visit beside others: workers with the candidate loaded, by workload.

        Nothing where the sizes leave no room for that.

        Raises:
            Failed: it cannot be loaded.
        """
        names = [w.name for w in bench.problem.workloads]
        if not self.roomy(bench):
            return {}
        with contextlib.ExitStack() as stack:
            with self.seat.doorstep():
                made = {
                    n: stack.enter_context(self.worker(bench, n, source, choices[n], queues=FEW_QUEUES)) for n in names
                }
            stack.pop_all()
        return made

    def household(
        self, bench: Bench, memory: int, *, screen: bool = True, yields: bool = True
    ) -> AbstractContextManager[None]:
        """Inside the judges of a problem may have memory here, beside those of others as far as it suffices.

        Args:
            memory: the device's bytes.
            screen: whether it is for a screen.
            yields: see `Households.of`.

        Raises:
            SeatLost: it was stopped while it waited for room.
        """
        room = self._judges_weight(bench, memory, screen=screen)
        return self.households.of(_key(bench), room, partial(self._leave, bench), yields=yields, go_on=bench.go_on)

    def _judges_weight(self, bench: Bench, memory: int, *, screen: bool) -> float:
        if not self.roomy(bench):
            return 1.0
        names = [w.name for w in bench.problem.workloads]
        arms = max(len(self.arms(bench, name)) if screen else len(bench.problem.baselines) for name in names)
        return judges_share(map(bench.full, names), arms, memory, screen=screen)

    def _leave(self, bench: Bench) -> None:
        self.free()
        for workload in bench.problem.workloads:
            bench.forget(bench.full(workload.name), self.torch_name)

    def close(self, bench: Bench) -> None:
        """Ends what a problem's judges have here; nobody will ask for them again."""
        self._leave(bench)
        self.households.gone(_key(bench))

    def prepare(self, bench: Bench, memory: int, cases: Sequence[Case] = ()) -> Future[None]:
        """Makes ready what the candidates of a problem will need here; see `Ahead.prepare`."""
        return self._ahead.prepare(bench, memory, cases)

    def arms(self, bench: Bench, workload: str) -> Sequence[str]:
        """Baselines beside which candidates are timed: in a screen the one that was the fastest at first sight."""
        known = self.pilots.get((bench.problem.key, workload, "cold"))
        return [min(known, key=known.__getitem__)] if known and self._short else bench.problem.baselines

    def unseen(self, bench: Bench) -> list[str]:
        """Workloads at whose baselines nobody has looked yet."""
        names = [workload.name for workload in bench.problem.workloads]
        return [name for name in names if (bench.problem.key, name, "cold") not in self.pilots]

    def settle(self, bench: Bench, memory: int) -> None:
        """Ends the baselines beside which nobody will be timed, so that others have their room."""
        for workload in bench.problem.workloads:
            for arm in set(bench.problem.baselines) - set(self.arms(bench, workload.name)):
                with self.lock:
                    judge = self._baselines.pop((bench.problem.key, workload.name, arm), None)
                    for known in (self._warmed, self._holds):
                        known.pop(judge, None)  # type: ignore[arg-type]
                if judge is not None:
                    judge.end()
        self.households.lighter(_key(bench), self._judges_weight(bench, memory, screen=self._short))

    def first_looks(self, bench: Bench, seeds: Seeds) -> None:
        """Looks at the times of warm baselines where nobody has done so; nobody else may be on the device.

        Args:
            seeds: of inputs on which nothing is judged.
        """
        for key in [(bench.problem.key, name, "cold") for name in self.unseen(bench)]:
            judges = {arm: self._baselines[key[0], key[1], arm] for arm in bench.problem.baselines}
            slots = int(self._common(judges.values())["slots"])
            turns = turns_of(seeds, f"first/{key[1]}", slots, seeds.seed("baseline") >> 1)
            asks = {arm: partial(bench.judged, judge) for arm, judge in judges.items()}
            self.pilots[key] = first_look(asks, turns, slots, key[2], PILOT_ROUNDS)

    @staticmethod
    def roomy(bench: Bench) -> bool:
        """Whether its sizes leave room for others beside a candidate."""
        return max(footprint(bench.full(w.name)) for w in bench.problem.workloads) <= ROOMY_BYTES

    def cold(self, bench: Bench) -> list[str]:
        """Workloads of which a baseline has never been called, where there is room to have them called ahead."""

        def warm(workload: str, arm: str) -> bool:
            known = self._baselines.get((bench.problem.key, workload, arm))
            return known is not None and known in self._warmed

        names = [w.name for w in bench.problem.workloads] if self.roomy(bench) else []
        return [w for w in names if not all(warm(w, arm) for arm in self.arms(bench, w))]

    def _weight(self, bench: Bench, memory: int) -> float:
        """The share of the memory for candidates that one of them takes at most."""
        if not self.roomy(bench):
            return 1.0
        sizes = ((bench.full(w.name), self._calls(bench, w.name)) for w in bench.problem.workloads)
        return screen_share(sizes, memory)

    def _calls(self, bench: Bench, workload: str) -> int:
        """Timed calls of a short burst of a screen; 0 before anybody has looked at the baselines."""
        known = self.pilots.get((bench.problem.key, workload, "cold"))
        return calls_per_burst(min(known.values()), short=True) if known else 0

    def correct(
        self,
        bench: Bench,
        source: str,
        choices: Mapping[str, Mapping[str, Choice]],
        cases: Sequence[Case],
        stay: Stay | None = None,
        visit: Visit | None = None,
        *,
        enough: int = 0,
    ) -> tuple[list[Correctness], str]:
        """Compares at full size on the device, one case of each distribution first.

        Args:
            choices: of each workload, by name.
            cases: of these `full_cases`, and more until one of them says something.
            enough: in place of `full_cases`.
            stay: lets others by before each question.
            visit: keeps the workers, to be timed, where memory allows.

        Returns:
            one entry per workload, and which isolation held.
        """
        found, isolation, most = [], "none", enough or self.full_cases
        seen: dict[str, int] = {}
        rank = {c: seen.setdefault(c.distribution, 0) for c in cases}
        for c in cases:
            rank[c], seen[c.distribution] = seen[c.distribution], seen[c.distribution] + 1
        ordered = sorted(cases, key=rank.__getitem__)
        for workload in bench.problem.workloads:
            choice, full = choices[workload.name], bench.full(workload.name)
            queues = FEW_QUEUES if visit is not None else 0
            trial = Trial(source, choice, full, self.torch_name, self.answers, self.bounds, queues)
            self._make_room(trial.description)
            roomy = visit is not None and footprint(trial.description) <= ROOMY_BYTES
            keep = partial(visit.workers.__setitem__, workload.name) if visit is not None and roomy else None
            loaded = visit.workers.get(workload.name) if visit is not None else None
            one, isolation = compare(
                bench, trial, ordered, Evidence.MEASURED, enough=most, stay=stay, loaded=loaded, keep=keep
            )
            if footprint(trial.description) > ROOMY_BYTES:
                bench.forget(trial.description, self.torch_name)
            found.append(one)
        return found, isolation

    def _make_room(self, description: Description) -> None:
        """Ends the baselines' processes if their rings of full-size inputs could leave too little memory.

        A candidate of that size is alone on the device.
        """
        if footprint(description) > ROOMY_BYTES:
            self.free()

    def free(self) -> None:
        """Ends the baselines' processes."""
        for conversation in self._baselines.values():
            conversation.end()
        for known in (self._baselines, self._warmed, self._holds):
            known.clear()

    def worker(
        self, bench: Bench, workload: str, source: str, choice: Mapping[str, Choice], *, queues: int = 0
    ) -> Conversation:
        """A fresh process that holds the candidate at full size.

        Args:
            queues: of its context; see `protocol.Opened`.

        Raises:
            Failed: it cannot be loaded.
        """
        worker = bench.roles["worker"].open(self.bounds.on_device, bench.scratch(source))
        opened = bench.opened(bench.full(workload), self.torch_name, candidate=source, choice=choice, queues=queues)
        try:
            body = {"opened": codec.to_data(opened), "answers": dict(self.answers)}
            candidate_asks(worker, "load", body, seconds=self.bounds.load_seconds)
        except Failed:
            worker.end()
            raise
        return worker

    def tune(self, bench: Bench, builder: Builder, source: str, tuning: Tuning, default: Mapping[str, Choice]) -> None:
        """Times choices on each group's workloads; what the build rules out costs no device time."""
        for group in tuning.groups:
            if group.tuner.size > 1:
                for workload in group.workloads:
                    self._make_room(bench.full(workload))
                self._tune_group(bench, builder, source, group, default)

    def _tune_group(
        self, bench: Bench, builder: Builder, source: str, group: Group, default: Mapping[str, Choice]
    ) -> None:
        workers = {w: self.worker(bench, w, source, default) for w in group.workloads}
        try:
            while choices := group.tuner.ask_some():
                some = builder.build_some(source, choices, group.workloads)
                for choice, built in zip(choices, some, strict=True):
                    if isinstance(built, Failed):
                        group.tuner.tell(choice, None)
                        continue
                    try:
                        times = [self._quick_time(workers[w], choice) for w in group.workloads]
                    except Failed:
                        group.tuner.tell(choice, None)
                        for w in group.workloads:
                            if workers[w].channel.sock.fileno() < 0:
                                workers[w] = self.worker(bench, w, source, default)
                        continue
                    group.tell(choice, times)
        finally:
            for worker in workers.values():
                worker.end()

    def _quick_time(self, worker: Conversation, choice: Mapping[str, Choice]) -> float:
        candidate_asks(worker, "choose", {"choice": dict(choice)}, seconds=self.bounds.call_seconds)
        seed = self._ranking.seed("ring") >> 1
        warmed = {"seed": seed, "seconds": 0.02, "slots": _TUNE_CALLS + 1, "hold": 0}
        candidate_asks(worker, "warm", warmed, seconds=self.bounds.call_seconds)
        due = {"calls": [[i, seed + i] for i in range(_TUNE_CALLS + 1)], "distribution": "declared"}
        candidate_asks(worker, "renew", due, seconds=self.bounds.call_seconds)
        body = {"mode": "cold", "untimed": 1, "hold": False}
        timed = candidate_asks(worker, "burst", body, seconds=self.bounds.call_seconds)
        return float(statistics.median(timed.body["milliseconds"]))

    def time(
        self,
        bench: Bench,
        workload: str,
        source: str,
        choice: Mapping[str, Choice],
        *,
        lane: Lane = LANES["screen"],
        seeds: Seeds | None = None,
        figures: HardwareFigures | None = None,
        candidates: int = 1,
        distribution: str = "declared",
        visit: Visit | None = None,
    ) -> Measured:
        """Candidate and baselines interleaved, in as many fresh processes as the lane says.

        The platform's name is the ladder's to fill in.

        Args:
            figures: of the platform, for the floor.
            candidates: how many are measured of which the best will be taken.
            distribution: of the inputs of timed calls.
            visit: of a candidate that shares the device: it is timed in the worker kept there.

        Raises:
            Failed: a timed call was wrong, or its time cannot be true.
        """
        seeds = seeds or Seeds()
        queues = FEW_QUEUES if lane.name == "screen" else 0
        trial = Trial(source, choice, bench.full(workload), self.torch_name, self.answers, self.bounds, queues)
        runs: list[Measured] = []
        for number in range(lane.processes):
            if number or self._short != (lane.name == "screen"):
                self.free()  # rings of a screen are short
            self._short = lane.name == "screen"
            own = seeds if not number else Seeds(seeds.seed(f"process/{number}").to_bytes(16, "big"))
            rules: dict[str, Any] = {"figures": figures, "candidates": candidates, "distribution": distribution}
            kept = visit.workers.get(workload) if visit is not None and not number else None
            session = Session(bench, self, trial, lane, own, blocks=self.blocks, worker=kept, visit=visit, **rules)
            runs.append(session.measure())
        timed = tuple(worst_of(modes) for modes in by_mode([run.timed for run in runs]))
        return Measured(timed, tuple(guard for run in runs for guard in run.guards))

    def baseline(self, bench: Bench, workload: str, arm: str) -> Conversation:
        """A baseline arm in a judge's child of its own, kept until the device's memory is needed."""
        key = (bench.problem.key, workload, arm)
        if key not in self._baselines or self._baselines[key].role.gone:
            judge = bench.roles["judge"].open()
            queues = FEW_QUEUES if self._short else 0
            opened = codec.to_data(bench.opened(bench.full(workload), self.torch_name, queues=queues))
            state = {"seed": self._ranking.seed("baseline") >> 1, "distribution": "declared"}
            bench.judged(judge, "baseline", {"opened": opened, "arm": arm, **state})
            self._baselines[key] = judge
        return self._baselines[key]

    def warm_baselines(
        self, bench: Bench, workload: str, body: Mapping[str, Any]
    ) -> tuple[dict[str, Conversation], Mapping[str, Any]]:
        """The baselines' conversations by arm, warm, and what they said of their rings and memory, see `_common`.

        Those that were warmed up not long ago are taken as they are.

        Args:
            body: of the question `warm`.
        """
        with self.lock:
            judges = {arm: self.baseline(bench, workload, arm) for arm in self.arms(bench, workload)}
            for judge in judges.values():
                if time.monotonic() - self._warmed.get(judge, (-math.inf, {}))[0] > _STAYS_WARM:
                    facts = bench.judged(judge, "warm", body).body
                    self._warmed[judge] = time.monotonic(), facts
                    self._holds.pop(judge, None)
            return judges, self._common(judges.values())

    def _common(self, judges: Iterable[Conversation]) -> dict[str, Any]:
        """What the last of them said, with as many slots as all of them have: each made its ring from the memory that
        was free just then, and all arms visit the same slots."""
        said = [self._warmed[judge][1] for judge in judges]
        return {**said[-1], "slots": min(int(facts["slots"]) for facts in said)}

    def hold(self, bench: Bench, judge: Conversation, body: Mapping[str, Any]) -> None:
        """Has a baseline keep as many results as a candidate does, which takes the same time; once is enough."""
        with self.lock:
            self._warmed[judge] = time.monotonic(), self._warmed[judge][1]
            if self._holds.get(judge) != body["hold"]:
                bench.judged(judge, "warm", body)
                self._holds[judge] = body["hold"]
