"""Fakes and conformance kits: for our own tests and for whoever writes a policy, a store or a writer.

In: a seed, or a class to be checked. Out: components that behave like the real ones without torch, network or device;
an AssertionError that says which rule was broken. Left to others: the test runner (nothing here needs pytest).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernelevolve import codec, snapshot
from kernelevolve.candidate import Brief, Candidate
from kernelevolve.errors import NoMovesLeft, RunBusy, SeatLost, StaleLease, StoreError, WriterError
from kernelevolve.evaluation import (
    Buffer,
    Correctness,
    Evaluation,
    Evidence,
    Figure,
    Launch,
    LaunchPlan,
    Resources,
    Rung,
    RungReport,
    Timing,
    Verdict,
    error_name,
    plan_name,
    speedup,
)
from kernelevolve.events import Asked, Component, Created, Dropped, Entry, Evaluated, Noted, Written
from kernelevolve.graph import Graph, Restorable, fold, fold_all
from kernelevolve.node import Shelf
from kernelevolve.problem import Problem
from kernelevolve.propose import Answer, Draft, Workbench
from kernelevolve.run import Equip, Equipment
from kernelevolve.search import Policy
from kernelevolve.search.novelty import BinariesReducer
from kernelevolve.settings import Settings, settings_for
from kernelevolve.store import Store
from kernelevolve.store.owner import this_process

FAKE_PLATFORM = "h100"


def fake_problem(name: str = "relu") -> Problem:
    """A small problem that nothing in the fakes runs."""
    source = "class Model: ...\n\n\ndef get_inputs():\n    return []\n"
    return Problem(name=name, suite="folder", path=f"{name}.py", source=source)


def fake_evaluation(quality: float, *, verdict: Verdict | None = None, binary: str = "") -> Evaluation:
    """An evaluation of a correct candidate that is `quality` times as fast as its baseline, or of a faulty one."""
    verdict = verdict or (Verdict.OK_FASTER if quality > 1 else Verdict.OK_SLOWER)
    faulty = not verdict.ok
    rungs = (
        RungReport(Rung.CHECK, "passed", 0.001, "a Triton kernel"),
        RungReport(Rung.CORRECT, "failed" if faulty else "passed", 0.01, verdict.value, FAKE_PLATFORM),
    )
    resources = {FAKE_PLATFORM: (Resources("kernel", "sm_90", binary, 32, 0, 0, 4, 1.0),)} if binary else {}
    if faulty:
        return Evaluation(verdict, FAKE_PLATFORM, rungs, resources=resources)
    eager = Figure(1.0, "ms", Evidence.MEASURED, "fake clock")
    mine = Figure(1.0 / quality, "ms", Evidence.MEASURED, "fake clock")
    timing = Timing("declared", FAKE_PLATFORM, mine, {"eager": eager}, "eager", speedup(eager, mine))
    return Evaluation(verdict, FAKE_PLATFORM, rungs, (Correctness(Evidence.MEASURED, True, ()),), resources, (timing,))


def fake_plan(candidate: Candidate) -> LaunchPlan:
    """One launch over two buffers, with a grid that tells candidates apart."""
    x, y = Buffer("x", (64,), (1,), "float32", "input"), Buffer("y", (64,), (1,), "float32", "output")
    launch = Launch(
        "kernel", {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}, {"BLOCK": 64}, {"n": 16},
        {"x": "buffer x+0", "y": "buffer y+0", "n": 64}, (1 + int(candidate.digest[:4], 16), 1, 1), {"num_warps": 4},
    )  # fmt: skip
    return LaunchPlan("declared", FAKE_PLATFORM, (x, y), (launch,))


class FakeEvaluator:
    """Judges a candidate by its digest: the same source always gets the same evaluation.

    Args:
        seed: of verdicts, qualities and latencies.
        seconds: mean latency per rung; each wait is between half and one and a half of it.
        faulty: share of candidates that are wrong.
        lost: share of attempts that fail by the machine's fault (drawn anew for each attempt).
    """

    def __init__(self, seed: int = 0, *, seconds: float = 0.0, faulty: float = 0.2, lost: float = 0.0) -> None:
        self._seed, self._seconds, self._faulty, self._lost = seed, seconds, faulty, lost
        self._attempts: dict[str, int] = {}
        self.busy = self.most_busy = 0

    async def evaluate(
        self, candidate: Candidate, *, progress: Callable[[str], None], keep: Callable[[bytes], str]
    ) -> Evaluation:
        """See `run.Evaluator.evaluate`."""
        attempt = self._attempts[candidate.id] = self._attempts.get(candidate.id, 0) + 1
        luck = random.Random(f"{self._seed}:{candidate.id}:{attempt}")
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            for rung in (Rung.CHECK, Rung.CORRECT):
                progress(rung.value)
                await asyncio.sleep(self._seconds * (0.5 + luck.random()))
        finally:
            self.busy -= 1
        if luck.random() < self._lost:
            raise SeatLost(f"fake seat lost at {candidate.id}, attempt {attempt}")
        return self.judged(candidate, keep)

    def judged(self, candidate: Candidate, keep: Callable[[bytes], str]) -> Evaluation:
        """What is found of a candidate, without any waiting."""
        rng = random.Random(f"{self._seed}:{candidate.digest}")
        verdict = Verdict.WRONG_VALUE if rng.random() < self._faulty else None
        found = fake_evaluation(0.5 + 2 * rng.random(), verdict=verdict, binary=candidate.digest[:16])
        contents = {plan_name(FAKE_PLATFORM, "declared"): codec.dumps(fake_plan(candidate))}
        if verdict is not None:
            contents[error_name(FAKE_PLATFORM, Rung.CORRECT)] = f"what is wrong with\n{candidate.source}"
        return replace(found, artefacts={name: keep(text.encode()) for name, text in contents.items()})


class FakeTranslator:
    """Plans are lists of moves; each plan has `moves` children, down to `depth`.

    Args:
        firsts: how many different first kernels there are.
        seconds: latency of each answer.
    """

    def __init__(self, *, moves: int = 4, depth: int = 100, firsts: int = 3, seconds: float = 0.0) -> None:
        self._moves, self._depth, self._firsts, self._seconds = moves, depth, firsts, seconds
        self.families = tuple(f"kind {number}" for number in range(moves))

    async def first(self, seed: int) -> Draft:
        """See `propose.Translator.first`."""
        await asyncio.sleep(self._seconds)
        return self._draft([seed % self._firsts])

    def adopt(self, plan: Mapping[str, Any]) -> Draft | None:
        """See `propose.Translator.adopt`."""
        return self._draft(list(plan["path"])) if plan.get("path") else None

    async def cross(self, plan: Mapping[str, Any], other: Mapping[str, Any], tried: Container[str]) -> Draft | None:
        """See `propose.Translator.cross`: the path with the first move of the other's that it does not have."""
        await asyncio.sleep(self._seconds)
        for move in other["path"]:
            draft = self._draft([*plan["path"], move])
            if move not in plan["path"] and _key(draft.plan) not in tried:
                return draft
        return None

    async def next(
        self, plan: Mapping[str, Any], limit: str, tried: Container[str], rng: random.Random, prefer: str = ""
    ) -> Draft | None:
        """See `propose.Translator.next`."""
        await asyncio.sleep(self._seconds)
        path = list(plan["path"])
        if len(path) > self._depth:
            return None
        for move in sorted(rng.sample(range(self._moves), self._moves), key=lambda m: self.families[m] != prefer):
            draft = self._draft([*path, move])
            if _key(draft.plan) not in tried:
                return replace(draft, move=self.families[move])
        return None

    def _draft(self, path: list[int]) -> Draft:
        return Draft(f"# plan {path}\n", {"path": path}, f"move {path[-1]}")


def _key(plan: Mapping[str, Any]) -> str:
    return hashlib.sha256(codec.dumps(plan).encode()).hexdigest()[:16]


class FakeWriter:
    """Answers each brief from its index alone.

    Args:
        seconds: latency of each answer.
        failing: share of briefs that are not answered.
        exhausted_after: briefs after which every answer is that no move is left; 0 for never.
    """

    name = "fake"
    reducers = ()

    def __init__(
        self, workbench: Workbench, *, seconds: float = 0.0, failing: float = 0.0, exhausted_after: int = 0
    ) -> None:
        self._seed, self._seconds, self._failing, self._last = workbench.seed, seconds, failing, exhausted_after

    async def write(self, brief: Brief, graph: Graph) -> Answer:
        """See `propose.Writer.write`."""
        await asyncio.sleep(self._seconds)
        if self._last and brief.index >= self._last:
            raise NoMovesLeft(f"the fake writer stops after {self._last} briefs")
        if random.Random(f"{self._seed}:{brief.index}:fake").random() < self._failing:
            raise WriterError(f"the fake writer fails at {brief.id}")
        return Answer(f"# seed {self._seed}, brief {brief.index}, parents {brief.parents}\n", f"brief {brief.index}")


def fake_equip(evaluator: FakeEvaluator | None = None, translator: FakeTranslator | None = None) -> Equip:
    """An `Equip` that hands out fakes."""
    equipment = Equipment(evaluator or FakeEvaluator(), translator=translator or FakeTranslator())
    return lambda created, builds: equipment


@dataclass(frozen=True)
class Chapter:
    """A made-up log for checking policies: `nodes` candidates told, then `pending` briefs asked."""

    nodes: int
    pending: int
    seed: int = 0


def fake_log(policy: Policy, chapter: Chapter, settings: Settings | None = None) -> tuple[Entry, ...]:
    """The entries of a run in which `policy` chose all parents and the fakes did the rest."""
    settings = settings or settings_for("quick")
    created = Created(
        "fake", fake_problem(), FAKE_PLATFORM, chapter.seed, Component("checked"), Component("fake"),
        codec.to_data(settings), "0",
    )  # fmt: skip
    entries: list[Entry] = []
    graph = Graph((BinariesReducer(), *policy.reducers))

    def add(event: Any) -> None:
        entries.append(Entry(len(entries), 1, float(len(entries)), event))
        fold(graph, entries[-1])

    add(created)
    for index in range(chapter.nodes + chapter.pending):
        parents = policy.select(graph, random.Random(f"{chapter.seed}:{index}:select"))
        add(Asked(Brief(f"b{index}", index, parents, "")))
        if index < chapter.nodes:
            candidate = Candidate(f"n{index}", f"b{index}", "fake", f"# {chapter.seed} {index}\n")
            luck = random.Random(f"{chapter.seed}:{index}")
            verdict = Verdict.WRONG_VALUE if luck.random() < 0.3 else None
            evaluation = fake_evaluation(0.5 + 2 * luck.random(), verdict=verdict)
            worth = evaluation.timings[0].speedup if evaluation.timings else Figure(0.0, "x", Evidence.MEASURED, "fake")
            add(Written(candidate))
            add(Evaluated(candidate.id, evaluation, worth))
    return tuple(entries)


@dataclass(frozen=True)
class Space:
    """A made-up, finite space of kernels for checking policies: paths of moves with a quality each.

    Attributes:
        drafts: how many different first kernels there are.
        moves, depth: from a path of fewer than `depth` moves so many lead on.
        faulty, same: shares of wrong kernels, and of kernels that repeat an earlier one.
    """

    seed: int = 0
    drafts: int = 3
    moves: int = 3
    depth: int = 3
    faulty: float = 0.3
    same: float = 0.1

    def luck(self, path: tuple[int, ...]) -> random.Random:
        """Decides what the kernel of `path` is like."""
        return random.Random(f"{self.seed}:{path}")

    def quality(self, path: tuple[int, ...]) -> float:
        """Fitness of a correct kernel: each move multiplies it by 0.8 to 1.3."""
        return math.prod(0.8 + 0.5 * self.luck(path[: i + 1]).random() for i in range(len(path)))

    def child(self, parents: list[tuple[int, ...]], tried: Container[tuple[int, ...]]) -> tuple[int, ...] | None:
        """The first path that is not tried and goes on from one of `parents`, or is a draft; None for none."""
        if not parents:
            options: list[tuple[int, ...]] = [(i,) for i in range(self.drafts)]
        else:
            options = [(*path, move) for path in parents if len(path) < self.depth for move in range(self.moves)]
        return next((path for path in options if path not in tried), None)


def fake_search(policy: Policy, space: Space, *, writers: int = 1, most: int = 2000) -> tuple[Graph, tuple[Entry, ...]]:
    """The graph and log of a search of `space` by `policy`, to the end: nothing is left, or `most` briefs were asked.

    Args:
        writers: briefs pending at the same time; they are answered in any order.
    """
    graph, entries = Graph((BinariesReducer(), *policy.reducers)), list[Entry]()
    settings = codec.to_data(settings_for("quick"))
    order = random.Random(f"{space.seed}:order")
    paths: dict[str, tuple[int, ...]] = {}

    def add(event: Any) -> None:
        entries.append(Entry(len(entries), 1, float(len(entries)), event))
        fold(graph, entries[-1])

    add(Created("fake", fake_problem(), FAKE_PLATFORM, space.seed, Component("checked"), Component("fake"),
                settings, "0"))  # fmt: skip
    while True:
        while len(graph.pending) < writers and graph.asked < most:
            parents = policy.select(graph, random.Random(f"{space.seed}:{graph.asked}:select"))
            if graph.is_exhausted(parents):
                break
            add(Asked(Brief(f"b{graph.asked}", graph.asked, parents, "")))
        if not graph.pending:
            return graph, tuple(entries)
        brief = order.choice(list(graph.pending.values())).brief
        path = space.child([paths[p] for p in brief.parents], paths.values())
        if path is None:
            add(Dropped(brief.id, "no move is left", exhausted=True))
            continue
        name, luck = f"n{graph.written}", space.luck((*path, -1))
        paths[name] = path
        evaluation = fake_evaluation(
            space.quality(path), verdict=Verdict.WRONG_VALUE if luck.random() < space.faulty else None
        )
        worth = evaluation.timings[0].speedup if evaluation.timings else Figure(0.0, "x", Evidence.MEASURED, "fake")
        twin = next(iter(graph.nodes), "") if luck.random() < space.same else ""
        add(Written(Candidate(name, brief.id, "fake", f"# {path}\n", plan={"path": list(path)})))
        add(Evaluated(name, evaluation, worth, twin))


def check_policy(make: Callable[[], Policy], *, nodes: int = 60, exhaustive: bool = False) -> None:
    """Raises AssertionError where a policy breaks a rule of `search.Policy`.

    It must choose known parents, none twice, and the same ones for the same log and rng, in a fresh instance as in one
    that has seen the whole run, and over a snapshot where its reducers are restorable; it must leave the graph and the
    states of its reducers alone, and come to an end where nothing is left.

    Args:
        nodes: of the longest log that it is given.
        exhaustive: whether it must go on until every correct node is exhausted.
    """
    _check_choices(make, nodes)
    for seed in range(4):
        policy = make()
        graph, entries = fake_search(policy, Space(seed), writers=1 + 3 * seed)
        assert graph.asked < 2000, "it does not come to an end where nothing is left"
        again = fold_all(entries, (BinariesReducer(), *make().reducers))
        assert again.witness(deep=True)[-1] == graph.witness(deep=True)[-1], "a replayed log gives other states"
        left = [
            node.id
            for node in graph.nodes.values()
            if node.evaluation.correct and not node.duplicate_of and not graph.is_exhausted((node.id,))
        ]
        assert not (exhaustive and left), f"it ends although {', '.join(left)} are not exhausted"


def _check_choices(make: Callable[[], Policy], nodes: int) -> None:
    for seed in range(3):
        old = make()
        for pending in (0, 3):
            entries = fake_log(old, Chapter(nodes, pending, seed))
            again = fake_log(make(), Chapter(nodes, pending, seed))
            assert entries == again, "two instances choose different parents for the same log and rng"
            graph, fresh = fold_all(entries, old.reducers), make()
            rng = [random.Random(f"{seed}:{graph.asked}:select") for _ in range(2)]
            before = graph.witness(deep=True)
            chosen = old.select(graph, rng[0])
            assert graph.witness(deep=True) == before, "select changed the graph or what a reducer keeps"
            assert isinstance(chosen, tuple), f"{chosen!r} is no tuple of node ids"
            assert chosen == fresh.select(fold_all(entries, fresh.reducers), rng[1]), (
                "a replayed graph gives other parents"
            )
            if all(isinstance(reducer, Restorable) for reducer in fresh.reducers):
                over = _over_snapshot(entries, fresh)
                assert chosen == fresh.select(over, random.Random(f"{seed}:{graph.asked}:select")), (
                    "a graph that was saved and restored gives other parents"
                )
            assert len(set(chosen)) == len(chosen), f"{chosen} has a parent twice"
            assert all(parent in graph.nodes for parent in chosen), f"{chosen} are not all nodes of the graph"


def _over_snapshot(entries: tuple[Entry, ...], policy: Policy) -> Graph:
    """The graph of `entries`, saved half way and restored."""
    first, shelf = entries[0].event, Shelf(lambda sequence: entries[sequence])
    assert isinstance(first, Created)
    half = Graph((BinariesReducer(), *policy.reducers), shelf)
    for entry in entries[: len(entries) // 2]:
        fold(half, entry)
    saved = snapshot.save(half)
    graph = snapshot.restore(saved, first, (BinariesReducer(), *policy.reducers), shelf)
    assert snapshot.save(graph) == saved, "what a reducer saves and restores is not what it saved"
    for entry in entries[half.next_sequence :]:
        fold(graph, entry)
    return graph


def check_store(make: Callable[[bool], Store]) -> None:
    """Raises AssertionError where a store breaks a rule of `store.Store`.

    Args:
        make: opens one and the same empty place; its argument says whether to create it.
    """
    store, owner = make(True), this_process()
    lease = store.take(owner)
    entries = [store.append(Noted("check", f"entry {i}"), lease) for i in range(5)]
    assert [e.sequence for e in entries] == [0, 1, 2, 3, 4], "sequence numbers are not 0, 1, 2, ..."
    assert make(False).read_from(0) == tuple(entries), "another reader sees other entries"
    assert store.read_from(3) == tuple(entries[3:]), "read_from does not start at its argument"
    assert store.read_from(1, most=2) == tuple(entries[1:3]), "read_from gives more than `most` entries"
    assert store.read_from(5) == (), "read_from past the end gives entries"
    assert store.read_from(1, kinds=("noted",)) == tuple(entries[1:]), "read_from leaves out a kind that is wanted"
    assert store.read_from(0, kinds=("asked", "told")) == (), "read_from gives a kind that is not wanted"
    _must_raise(RunBusy, lambda: make(False).take(owner), "a run with a live owner was taken")
    later = make(False).take(owner, by_force=True)
    assert later.epoch > lease.epoch, "a later lease has no higher epoch"
    _must_raise(StaleLease, lambda: store.append(Noted("check", "old"), lease), "an old lease could append")
    lease.release()
    assert store.append(Noted("check", "new"), later).sequence == 5, "a refused append used up a number"
    later.release()
    later.release()
    _must_raise(StaleLease, lambda: store.append(Noted("check", "late"), later), "a released lease could append")
    assert make(False).take(owner).epoch > later.epoch, "a released run could not be taken again"
    _must_raise(StoreError, lambda: make(True), "a place that holds a log was created again")


def _must_raise(kind: type[Exception], act: Callable[[], Any], otherwise: str) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(otherwise)


def same_story(one: tuple[Entry, ...], other: tuple[Entry, ...]) -> str:
    """Where two logs tell different stories, in words; empty if they differ in clocks, leases and run ids only."""
    for a, b in zip(one, other, strict=False):
        if _story(a) != _story(b):
            return f"entry {a.sequence}: {_story(a):.200} / {_story(b):.200}"
    return "" if len(one) == len(other) else f"{len(one)} entries / {len(other)} entries"


def _story(entry: Entry) -> str:
    data = codec.to_data(entry.event)
    if isinstance(entry.event, Created):
        data["run"] = ""
    if isinstance(entry.event, Written):
        data["candidate"]["cost"]["seconds"] = 0.0
    return f"{entry.sequence} {entry.kind} {codec.dumps(data)}"


def fake_folder(folder: Path) -> Path:
    """`folder` with a problem file that parses and does nothing, for doors that want one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "relu.py").write_text(fake_problem().source, encoding="utf-8")
    return folder / "relu.py"
