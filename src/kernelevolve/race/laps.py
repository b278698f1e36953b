"""Laps: real runs of one policy on one course, with what they had found after each candidate.

In: courses, policies, seeds, a number of candidates. Out: laps. Left to others: what laps say (`standings`).

A course is a problem with what runs on it work with: a recording, or the machine itself. A lap is `create_run` and
`Run.drive` with one writer and one seat, in a folder that goes again, ended by its number of candidates alone.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernelevolve.errors import UsageError
from kernelevolve.events import Component
from kernelevolve.graph import Graph, Node
from kernelevolve.problem import Problem
from kernelevolve.race.landscape import Landscape
from kernelevolve.race.replay import replaying
from kernelevolve.run import Equip
from kernelevolve.runs import create_run
from kernelevolve.search import choosing
from kernelevolve.search.fitness import fitness
from kernelevolve.settings import Settings, settings_for

EVER = 1e9  # seconds


@dataclass(frozen=True)
class Course:
    """A problem on a platform, and what runs on it work with.

    Attributes:
        evidence: of its figures, `modelled, replayed` for example.
        best: the best fitness that can be found on it; None where nobody knows.
        truth: fitness without noise by source, where it is known.
    """

    name: str
    problem: Problem
    platform: str
    equip: Equip
    evidence: str
    best: float | None = None
    truth: Callable[[Node], float] = lambda node: node.fitness.value
    evaluated: int = 0


def recorded_course(landscape: Landscape) -> Course:
    """The course of a landscape.

    Raises:
        StoreError: not even its first kernel was evaluated.
    """
    truths = {one.source: one.truth for one in landscape.candidates if one.truth is not None}

    def truth(node: Node) -> float:
        return truths.get(node.candidate.source, node.fitness.value)

    equip = replaying(landscape)
    return Course(
        landscape.name, landscape.problem, landscape.platform, equip, landscape.evidence, _best(landscape), truth,
        landscape.evaluated,
    )  # fmt: skip


def _best(landscape: Landscape) -> float | None:
    """The largest fitness in it: without noise, or as it was recorded."""
    worth = [
        one.truth if one.truth is not None else fitness(landscape.problem, one.evaluation).value
        for one in landscape.candidates
        if one.evaluation is not None and one.evaluation.correct
    ]
    return max(worth, default=None)


@dataclass(frozen=True)
class Lap:
    """One run.

    Attributes:
        best: fitness of the best node, 0 while none is correct, after each candidate; of what the run takes for its
            best, without noise where that is known.
        device, money, seconds: spent until then: seconds a device was held, USD of writers, seconds of all rungs.
        faulty, repeated: how many candidates were wrong, and how many repeated another.
        ended: why.
    """

    course: str
    policy: str
    seed: int
    best: tuple[float, ...]
    device: tuple[float, ...]
    money: tuple[float, ...]
    seconds: tuple[float, ...]
    faulty: int
    repeated: int
    ended: str


@dataclass(frozen=True)
class RacePlan:
    """What is raced.

    Attributes:
        policies: as `policy_named` reads them.
        candidates: of each lap.
        effort: gives the number of drafts where a policy is not told another.
    """

    policies: tuple[str, ...]
    seeds: int
    candidates: int
    effort: str = "standard"

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.candidates < 2:
            raise UsageError(f"a race needs 1 seed and 2 candidates at least, got {self.seeds} and {self.candidates}")
        if len(set(self.policies)) != len(self.policies) or not self.policies:
            raise UsageError(f"give one or more different policies, got {', '.join(self.policies) or 'none'}")
        for policy in self.policies:
            choosing.policy_named(policy, self.settings)

    @property
    def settings(self) -> Settings:
        """Of every lap: no rule but the number of candidates ends it, unless the writer has nothing left."""
        made = settings_for(self.effort)
        return replace(made, candidates=self.candidates, plateau=self.candidates + 1, seconds=EVER, writers=1, seats=1)

    def component(self, policy: str) -> Component:
        """The policy with all its parameters."""
        return choosing.policy_named(policy, self.settings)


def run_laps(
    plan: RacePlan, courses: Sequence[Course], told: Callable[[Lap], None] = lambda lap: None
) -> tuple[Lap, ...]:
    """Every policy on every course with every seed.

    Raises:
        KernelEvolveError: what ends a run without a result.
    """
    laps = []
    for course in courses:
        for policy in plan.policies:
            for seed in range(plan.seeds):
                laps.append(_lap(plan, course, policy, seed))
                told(laps[-1])
    return tuple(laps)


def _lap(plan: RacePlan, course: Course, policy: str, seed: int) -> Lap:
    with tempfile.TemporaryDirectory(prefix="race") as place:
        run = create_run(
            Path(place) / "run", course.problem, course.platform, course.equip,
            settings=plan.settings, policy=plan.component(policy), seed=seed,
        )  # fmt: skip
        with run:
            asyncio.run(run.drive())
            return _lap_of(course, policy, seed, run.graph)


def _lap_of(course: Course, policy: str, seed: int, graph: Graph) -> Lap:
    best: Node | None = None
    values, device, money, seconds = [], [], [], []
    held = paid = spent = 0.0
    for node in graph.nodes.values():
        if node.evaluation.correct and (best is None or node.rank > best.rank):
            best = node
        held += node.evaluation.device_seconds
        paid += node.candidate.cost.money_usd
        spent += 0.0 if node.duplicate_of else node.evaluation.seconds
        values.append(course.truth(best) if best is not None else 0.0)
        device.append(held)
        money.append(paid)
        seconds.append(spent)
    faulty = sum(not node.evaluation.correct for node in graph.nodes.values())
    repeated = sum(bool(node.duplicate_of) for node in graph.nodes.values())
    return Lap(
        course.name, policy, seed, tuple(values), tuple(device), tuple(money), tuple(seconds), faulty, repeated,
        graph.finished,
    )  # fmt: skip
