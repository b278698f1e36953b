"""When to stop: small rules, the first that says stop ends the run.

In: the graph and how long the run has worked. Out: a reason in words, or nothing. Left to others: finishing the work in
flight (`run`): a rule stops the asking, so a run overshoots by at most the work in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernelevolve.evaluation import Evidence
from kernelevolve.graph import Graph
from kernelevolve.search import Termination
from kernelevolve.settings import Settings


@dataclass(frozen=True)
class Candidates:
    """So many candidates; pending ones count, so this rule never overshoots."""

    limit: int

    def reason(self, graph: Graph, active_seconds: float) -> str:
        return f"{self.limit} candidates" if graph.candidates >= self.limit else ""


@dataclass(frozen=True)
class Time:
    """So many seconds of work."""

    seconds: float

    def reason(self, graph: Graph, active_seconds: float) -> str:
        return f"{self.seconds:g} seconds of work" if active_seconds >= self.seconds else ""


@dataclass(frozen=True)
class Plateau:
    """So many candidates in a row without a new best one."""

    length: int

    def reason(self, graph: Graph, active_seconds: float) -> str:
        if graph.best is None or graph.since_best < self.length:
            return ""
        return f"no better candidate among the last {self.length}"


@dataclass(frozen=True)
class Target:
    """A fitness that is good enough; a modelled time cannot reach it."""

    fitness: float

    def reason(self, graph: Graph, active_seconds: float) -> str:
        best = graph.best
        if best is None or best.fitness.evidence is not Evidence.MEASURED or best.fitness.value < self.fitness:
            return ""
        return f"target {self.fitness:g}x reached: {best.fitness.value:.3g}x ({best.id})"


@dataclass(frozen=True)
class Tokens:
    """So many tokens of the writers, read and written."""

    limit: int

    def reason(self, graph: Graph, active_seconds: float) -> str:
        return f"{self.limit} tokens" if graph.tokens >= self.limit else ""


@dataclass(frozen=True)
class Money:
    """So many US dollars of the writers."""

    limit_usd: float

    def reason(self, graph: Graph, active_seconds: float) -> str:
        return f"{self.limit_usd:g} US dollars" if graph.money_usd >= self.limit_usd else ""


@dataclass(frozen=True)
class Drops:
    """So many briefs in a row that no writer could answer: the writer is broken, and asking on would never end."""

    limit: int

    def reason(self, graph: Graph, active_seconds: float) -> str:
        if graph.drops_in_a_row < self.limit:
            return ""
        return f"the writer failed {self.limit} times in a row; last: {graph.last_drop}"


@dataclass(frozen=True)
class First:
    """The first of `rules` that says stop."""

    rules: Sequence[Termination]

    def reason(self, graph: Graph, active_seconds: float) -> str:
        return next((why for rule in self.rules if (why := rule.reason(graph, active_seconds))), "")


def rules_for(settings: Settings) -> Termination:
    """The rules that `settings` stands for, the first that says stop."""
    rules: list[Termination] = []
    if settings.target is not None:
        rules.append(Target(settings.target))
    rules += [Candidates(settings.candidates), Plateau(settings.plateau), Drops(settings.drops), Time(settings.seconds)]
    if settings.tokens is not None:
        rules.append(Tokens(settings.tokens))
    if settings.money_usd is not None:
        rules.append(Money(settings.money_usd))
    return First(tuple(rules))
