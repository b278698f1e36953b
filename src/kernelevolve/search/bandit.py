"""Which arm answers the next brief: the first writer by its own choice, or a bandit over writers and moves.

In: the graph with what the arms have earned, the parents that the policy selected, the arms that there are. Out: one
of them. Left to others: what an arm has earned (`search.arms`), who carries it out (`propose.operator`).

Same log in, same choice out: the rng comes from the run's seed and the ask index, and everything else from the log.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from kernelevolve import plugins
from kernelevolve.errors import UnknownName, UsageError
from kernelevolve.events import Component
from kernelevolve.graph import Graph, Reducer
from kernelevolve.search.arms import Arm, ArmsReducer, Books, Earned, Key, context_of

SECONDS_PER_HOUR = 3600.0


class Chooser(Protocol):
    """Chooses who answers a brief, and by which kind of move; a pure function of its arguments."""

    reducers: tuple[Reducer, ...]

    def choose(self, graph: Graph, parents: tuple[str, ...], arms: Sequence[Arm], rng: random.Random) -> Arm:
        """One of `arms`, of which there is at least one; the first is the first writer's own choice."""
        ...


class First:
    """The first writer, by its own choice; the others answer where it has no move left."""

    reducers: tuple[Reducer, ...] = ()

    def choose(self, graph: Graph, parents: tuple[str, ...], arms: Sequence[Arm], rng: random.Random) -> Arm:
        """See `Chooser.choose`."""
        return arms[0]


class Bandit:
    """Thompson sampling of gain per cost, for each of what limits a kernel.

    An arm's expected gain is (chance of a gain) x (size of a gain): the chance is drawn from a Beta posterior over its
    answers, the size from an inverse gamma posterior (gains taken as exponential), and the arm with the largest
    drawn gain / mean cost is chosen (budgeted Thompson sampling: Xia, Li, Qin, Yu and Liu, IJCAI 2015). The prior of an
    arm in one context is what it did in the others, whose prior is what its writer did by other moves, whose prior is
    what the other writers did, worth `weight` answers each; these begin with Laplace's rule. No answer is in two of
    them. A pending brief counts as an answer without a gain until it is told, so that writers side by side spread out;
    so does asking for a move that the writer had not to offer.

    Cost is money + `hourly` x (writer + evaluation time). Where no writer takes money the rate cancels out. An answer
    of unknown cost is left out of the mean; an arm with none of known cost has its prior's mean.

    Args:
        weight: answers that the level above is worth; above 0.
        hourly: US dollars that an hour of writer or evaluation is worth beside money; above 0.
    """

    def __init__(self, weight: float = 2.0, hourly: float = 2.0) -> None:
        if not 0 < weight < math.inf or not 0 < hourly < math.inf:
            raise UsageError(f"bandit needs weight and hourly above 0 and finite, got weight={weight}, hourly={hourly}")
        self._weight, self._hourly = weight, hourly
        self.reducers: tuple[Reducer, ...] = (ArmsReducer(),)

    def choose(self, graph: Graph, parents: tuple[str, ...], arms: Sequence[Arm], rng: random.Random) -> Arm:
        """See `Chooser.choose`."""
        books: Books = graph.reduced(ArmsReducer.name)
        context = context_of(graph, parents)
        drawn = [self._drawn(books, arm, context, rng) for arm in arms]
        return arms[max(range(len(arms)), key=drawn.__getitem__)]

    def _drawn(self, books: Books, arm: Arm, context: str, rng: random.Random) -> float:
        """Gain per cost as drawn from what is known."""
        own: Key = (arm.writer, arm.move, context)
        run, writer, everywhere, here = (books.at(own[:depth]) for depth in range(4))
        others = self._seen(run) - self._seen(writer)
        by_other_moves = self._seen(writer) - self._seen(everywhere)
        at, k, everything = self._seen(here, refused=True), self._weight, self._seen(run)
        elsewhere = self._seen(everywhere, refused=True) - at
        chance = (others.gains + 1.0) / (others.gains + others.failures + 2.0)
        # Whatever stands in for a size before anybody has gained, or for a cost before one is known, cancels out.
        size = everything.gained / everything.gains if everything.gains else 1.0
        cost = (everything.cost / everything.priced if everything.priced else 0.0) or 1.0
        for rest in (by_other_moves, elsewhere):
            chance = (k * chance + rest.gains) / (k + rest.gains + rest.failures)
            size = (k * size + rest.gained) / (k + rest.gains)
            cost = (k * cost + rest.cost) / (k + rest.priced)
        cost = (k * cost + at.cost) / (k + at.priced)
        chance = rng.betavariate(k * chance + at.gains, k * (1.0 - chance) + at.failures)
        size = (k * size + at.gained) / rng.gammavariate(k + 1.0 + at.gains, 1.0)
        return chance * size / cost

    def _seen(self, earned: Earned, *, refused: bool = False) -> _Seen:
        # That one arm had nothing to offer says nothing about others of its writer.
        failures = earned.answers - earned.gains + earned.pending + (earned.refused if refused else 0)
        return _Seen(earned.gains, failures, earned.gained, earned.priced, self._cost(earned))

    def _cost(self, earned: Earned) -> float:
        """US dollars of all answers whose cost is known."""
        hours = (earned.seconds + earned.evaluation_seconds) / SECONDS_PER_HOUR
        return earned.money_usd + self._hourly * hours


class _Seen(NamedTuple):
    """What a posterior is made of; `cost` is of the `priced` answers together."""

    gains: int
    failures: int
    gained: float
    priced: int
    cost: float

    def __sub__(self, other: _Seen) -> _Seen:
        """What is left of a level without one of the levels below."""
        return _Seen(
            max(0, self.gains - other.gains), max(0, self.failures - other.failures),
            max(0.0, self.gained - other.gained), max(0, self.priced - other.priced), max(0.0, self.cost - other.cost),
        )  # fmt: skip


CHOOSERS: Mapping[str, type[First] | type[Bandit]] = {"bandit": Bandit, "first": First}


def chooser_named(text: str, writers: int = 1) -> Component:
    """The chooser of `NAME[:parameter=value,...]`, such as `bandit:hourly=4`, with all its parameters.

    Args:
        text: empty for the usual one: `bandit` among several writers, else `first`.

    Raises:
        UnknownName: no such chooser, or it has no such parameter; the message lists the known ones.
        UsageError: a parameter without a value or given twice, or a value that it refuses.
    """
    name, args = plugins.named(text or ("bandit" if writers > 1 else "first"))
    known = _parameters(name)
    if odd := next((arg for arg in args if arg not in known), ""):
        raise UnknownName(f"parameter of chooser {name}", odd, known)
    for arg, value in args.items():
        if isinstance(value, (bool, str)):
            raise UsageError(f"chooser {text!r}: {arg} is a number ({known[arg]}), got {value!r}")
    made = Component(name, {**known, **args})
    build(made)
    return made


def build(component: Component) -> Chooser:
    """The chooser that `component` names.

    Raises:
        UnknownName: no such chooser.
        UsageError: it refuses a value.
    """
    known = _parameters(component.name)
    try:
        chooser: Chooser = CHOOSERS[component.name](**component.args)
    except TypeError as error:
        parameters = ", ".join(f"{name}={value}" for name, value in known.items()) or "none"
        raise UsageError(
            f"chooser {component.name!r} cannot be built with {dict(component.args)}: {error}; its parameters: "
            f"{parameters}"
        ) from error
    return chooser


def _parameters(name: str) -> Mapping[str, Any]:
    if name not in CHOOSERS:
        raise UnknownName("chooser", name, CHOOSERS)
    return {p.name: p.default for p in inspect.signature(CHOOSERS[name]).parameters.values()}
