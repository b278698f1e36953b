"""What choosing by the bandit gains in made-up worlds of known chances, against an even choice and the first arm; and
what a choice costs.

In: numbers of briefs and seeds. Out: one line per world and number of briefs, and one JSON file with all samples. Left
to others: real writers; a gain here is 10 % with a chance that the world says, at a cost that it says.

What is missed is the best arm's expected gain per cost less that of the arm chosen, summed over the briefs. 1.0 is an
even choice among all arms; below is better.

    python benchmarks/choosers.py --out benchmarks/results/choosers.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.evaluation import Evidence, Figure
from kernelevolve.events import Asked, Component, Created, Entry, Evaluated, Event, Written
from kernelevolve.graph import Graph, fold
from kernelevolve.search.arms import Arm, ArmsReducer
from kernelevolve.search.bandit import Bandit, Chooser, First
from kernelevolve.settings import settings_for
from kernelevolve.testing import FAKE_PLATFORM, fake_evaluation, fake_problem

BRIEFS, GAIN = (12, 60, 300), 1.1


@dataclass(frozen=True)
class Odds:
    """Of one arm in one context: chance of a gain, seconds of an answer, and whether its writer has such a move."""

    chance: float
    seconds: float = 1.0
    offered: bool = True


World = Mapping[str, Mapping[Arm, Odds]]


def writers(**odds: tuple[float, float]) -> dict[Arm, Odds]:
    return {Arm(name): Odds(*each) for name, each in odds.items()}


def families(good: int) -> dict[Arm, Odds]:
    """A built-in engineer by its own choice and by twelve kinds of moves, of which one is good and four are not had."""
    made = {Arm("built-in"): Odds(0.15)}
    for number in range(12):
        made[Arm("built-in", f"kind {number}")] = Odds(0.5 if number == good else 0.1, offered=number < 8)
    return made


WORLDS: Mapping[str, World] = {
    "one of two writers is better": {"any": writers(one=(0.3, 1.0), two=(0.1, 1.0))},
    "three writers, each context another's": {
        "compute": writers(one=(0.05, 1.0), two=(0.4, 1.0), three=(0.1, 1.0)),
        "bandwidth": writers(one=(0.4, 1.0), two=(0.05, 1.0), three=(0.1, 1.0)),
    },
    "the better writer is ten times as dear": {"any": writers(cheap=(0.2, 1.0), dear=(0.3, 10.0))},
    "thirteen arms of one engineer, two contexts": {"compute": families(2), "bandwidth": families(5)},
}


class Story:
    """A log that grows in memory; `fold` is the run's own."""

    def __init__(self) -> None:
        self.graph, self._sequence = Graph((ArmsReducer(),)), 0
        settings, names = codec.to_data(settings_for("quick")), (Component("greedy"), Component("fake"))
        self.add(Created("made", fake_problem(), FAKE_PLATFORM, 0, *names, settings, "0"))

    def add(self, event: Event) -> None:
        fold(self.graph, Entry(self._sequence, 1, float(self._sequence), event))
        self._sequence += 1

    def answered(
        self, asked: Arm, made: Arm, fitness: float, seconds: float, parents: tuple[str, ...], limit: str
    ) -> str:
        index, name = self.graph.asked, f"n{self.graph.written}"
        self.add(Asked(Brief(f"b{index}", index, parents, "", {"prefer": asked.move}, writer=asked.writer)))
        self.add(Written(Candidate(name, f"b{index}", made.writer, f"# {name}\n", cost=Cost(seconds), move=made.move)))
        found = replace(fake_evaluation(fitness), diagnosis=f"{limit}: made")
        self.add(Evaluated(name, found, Figure(fitness, "x", Evidence.MEASURED, "made")))
        return name


class Even:
    """Every arm as often as any other."""

    reducers = ()

    def choose(self, graph: Graph, parents: tuple[str, ...], arms: Any, rng: random.Random) -> Arm:
        arm: Arm = rng.choice(arms)
        return arm


def missed(chooser: Chooser, world: World, briefs: int, seed: int) -> float:
    """Expected gain per second that the choices missed."""
    luck, story, total = random.Random(f"{seed}:world"), Story(), 0.0
    nobody = Arm("nobody")
    roots = {limit: story.answered(nobody, nobody, 1.0, 1.0, (), limit) for limit in world}
    for index in range(briefs):
        limit = luck.choice(list(world))
        odds = world[limit]
        arms, own = list(odds), next(iter(odds))
        asked = chooser.choose(story.graph, (roots[limit],), arms, random.Random(f"{seed}:{index}:choose"))
        made = asked if odds[asked].offered else own
        best = max(each.chance / each.seconds for each in odds.values() if each.offered)
        total += best - odds[made].chance / odds[made].seconds
        fitness = GAIN if luck.random() < odds[made].chance else 0.9
        story.answered(asked, made, fitness, odds[made].seconds, (roots[limit],), limit)
    return total


def cost(answers: int) -> dict[str, Any]:
    """Milliseconds of one choice and one answer folded, at the end of a long log."""
    story, bandit, luck = Story(), Bandit(), random.Random(0)
    world = WORLDS["thirteen arms of one engineer, two contexts"]
    nobody, samples = Arm("nobody"), list[float]()
    roots = {limit: story.answered(nobody, nobody, 1.0, 1.0, (), limit) for limit in world}
    arms = list(world["compute"])
    for index in range(answers):
        limit = luck.choice(list(world))
        start = time.perf_counter()
        arm = bandit.choose(story.graph, (roots[limit],), arms, random.Random(index))
        story.answered(arm, arm, luck.choice((0.9, GAIN)), 1.0, (roots[limit],), limit)
        samples.append((time.perf_counter() - start) * 1e3)
    late = sorted(samples[-2000:])
    return {"answers": answers, "median_ms": late[len(late) // 2], "p99_ms": late[int(0.99 * len(late))]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name, world in WORLDS.items():
        for briefs in BRIEFS:
            found = {
                who: [missed(chooser, world, briefs, seed) for seed in range(options.seeds)]
                for who, chooser in (("bandit", Bandit()), ("even", Even()), ("first", First()))
            }
            even = statistics.fmean(found["even"])
            share = {who: statistics.fmean(each) / even for who, each in found.items()}
            error = statistics.stdev(found["bandit"]) / options.seeds**0.5 / even
            text = f"misses {share['bandit']:.2f} (standard error {error:.2f}) of an even choice"
            print(f"{name}, {briefs} briefs: {text}; the first arm always: {share['first']:.2f}", flush=True)
            rows.append({"world": name, "briefs": briefs, "share": share, "missed": found})
    spent = cost(options.answers)
    took = f"{spent['median_ms']:.3f} ms median, {spent['p99_ms']:.3f} p99"
    print(f"choose + fold after {options.answers} answers: {took}")
    if options.out is not None:
        facts = {
            "benchmark": "choosers",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.system(),
                        "load": os.getloadavg()},
            "versions": {"python": platform.python_version()},
            "seeds": options.seeds,
            "rows": rows,
            "cost": spent,
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
