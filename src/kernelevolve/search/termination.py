"""When to stop: small rules, the first that says stop ends the run.

In: the graph and how long the run has worked. Out: the event that ends the run, with the figures that the rule rests
on, or None. Left to others: finishing the work in flight (`run`): a rule stops the asking, so a run overshoots by at
most the work in flight; what is a better candidate and what it cost (`search.progress`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kernelevolve.evaluation import Evidence, Figure
from kernelevolve.events import Finished
from kernelevolve.graph import Graph, Node
from kernelevolve.problem import Problem
from kernelevolve.search import Termination
from kernelevolve.search.progress import LEVEL, Progress, ProgressReducer
from kernelevolve.settings import Settings

# Candidates that must have been evaluated before what a further one is worth is estimated.
LEAST_FOR_VALUE = 8
_SECONDS = {"minute": 60.0, "hour": 3600.0, "device-minute": 60.0}
_LATEST_GAINS = 5


def counted(value: float, unit: str, how: str = "counted in the log") -> Figure:
    """A figure that the log itself holds."""
    return Figure(float(value), unit, Evidence.MEASURED, how)


@dataclass(frozen=True)
class Candidates:
    """So many candidates; pending ones count, so this rule never overshoots."""

    limit: int

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        if graph.candidates < self.limit:
            return None
        spent = {"candidates": counted(graph.candidates, "candidates")}
        return Finished(f"{self.limit} candidates", "candidates", spent)


@dataclass(frozen=True)
class Time:
    """So many seconds of work."""

    seconds: float

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        if active_seconds < self.seconds:
            return None
        spent = {"worked": counted(active_seconds, "s", "between entries of the log, pauses between openings left out")}
        return Finished(f"{self.seconds:g} seconds of work", "time", spent)


@dataclass(frozen=True)
class DeviceTime:
    """So many seconds in which candidates held an accelerator; see `Evaluation.device_seconds`."""

    seconds: float

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        held = _progress(graph).device_seconds
        if held < self.seconds:
            return None
        return Finished(f"{self.seconds:g} seconds of device time", "device time", {
            "held": counted(held, "s", "sum over evaluations of the seconds a device was held; shared seconds divided"),
        })  # fmt: skip


@dataclass(frozen=True)
class Plateau:
    """So many candidates in a row of which none is better than the best one beyond noise.

    Better beyond noise is defined in `search.progress`. With `length` failures in a row, the chance that a further
    candidate is better is below 1 - 0.05^(1/length) at 95 %: Clopper and Pearson, Biometrika 26 (1934), for none of
    `length`, as far as candidates are exchangeable.
    """

    length: int

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        progress = _progress(graph)
        failed = len(graph.nodes) - progress.standing_at
        if progress.standing is None or failed < self.length:
            return None
        standing = graph.nodes[progress.standing]
        chance = 1.0 - LEVEL ** (1.0 / failed)
        text = f"no candidate better than {standing.id} beyond noise among the last {failed}"
        return Finished(f"{text}; chance of a better one below {chance:.1%} each", "plateau", {
            "candidates without a gain": counted(failed, "candidates"),
            "best beyond noise": standing.fitness,
            "chance of a better one": Figure(
                chance, "", Evidence.MODELLED, f"95 % upper bound for 0 of {failed}, candidates taken as exchangeable"
            ),
        })  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A fitness that is good enough, with the lower end of its interval; a modelled time cannot reach it."""

    fitness: float

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        best = graph.best
        if best is None or best.fitness.evidence is not Evidence.MEASURED:
            return None
        if (best.fitness.low or best.fitness.value) < self.fitness:
            return None
        text = f"target {self.fitness:g}x reached: {best.fitness.value:.3g}x ({best.id})"
        return Finished(text, "target", {"fitness": best.fitness})


@dataclass(frozen=True)
class Roofline:
    """A best candidate whose time is as near to the platform's floor as asked for.

    The floor is `Timing.floor`: bytes and FLOPs of the reference as written, at the sheet's ceilings. A kernel that
    needs less of them than the reference states can be below it.

    Args:
        share: floor / time that is near enough, geometric mean over the workloads by weight; above 0, at most 1.
    """

    share: float

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        best = graph.best
        reached = roofline(graph.created.problem, best) if best is not None else None
        if best is None or reached is None or reached.value < self.share:
            return None
        floors = {
            f"floor of {t.workload}": t.floor
            for t in best.evaluation.timings
            if t.mode == "cold" and t.floor is not None
        }
        text = f"{best.id} runs at {reached.value:.3g} of the roofline, {self.share:g} asked for"
        return Finished(text, "roofline", {"share of the roofline": reached, **floors})


def roofline(problem: Problem, node: Node) -> Figure | None:
    """floor / time of a node over all workloads; None where a workload has no time or no floor."""
    evaluation, total, logs = node.evaluation, 0.0, 0.0
    timings = {t.workload: t for t in evaluation.timings if t.platform == evaluation.platform and t.mode == "cold"}
    for workload in problem.workloads:
        timing = timings.get(workload.name)
        if timing is None or timing.floor is None or not timing.floor.value > 0:
            return None
        total += workload.weight
        logs += workload.weight * math.log(timing.floor.value / timing.candidate.value)
    how = f"floor / time, geometric mean by weight over {len(problem.workloads)} workloads; floors at sheet ceilings"
    return Figure(math.exp(logs / total), "", Evidence.MODELLED, how) if total else None


@dataclass(frozen=True)
class Tokens:
    """So many tokens of the writers, read and written."""

    limit: int

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        if graph.tokens < self.limit:
            return None
        return Finished(f"{self.limit} tokens", "tokens", {"tokens": counted(graph.tokens, "tokens")})


@dataclass(frozen=True)
class Money:
    """So many US dollars of the writers."""

    limit_usd: float

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        if graph.money_usd < self.limit_usd:
            return None
        return Finished(f"{self.limit_usd:g} US dollars", "money", {"money": counted(graph.money_usd, "USD")})


@dataclass(frozen=True)
class Value:
    """A further candidate is expected to gain less for its cost than the user asks for.

    The estimator looks at the later half of the candidates so far, n of them with s gains beyond noise: the chance of
    another gain is (s + 1) / (n + 2), Laplace's rule of succession (1774); its size is the median of the latest five
    gains in ln(fitness); its cost is the mean of the same n. Half of the run as window and the median are our choice:
    they need no length to be chosen and forget how easy the beginning was. Says nothing before 8 candidates, before a
    first gain, and while such candidates cost nothing.

    Args:
        least: relative gain in fitness asked for, 0.01 = 1 %.
        unit: that it is asked for of: one of `settings.VALUE_UNITS`.
    """

    least: float
    unit: str

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        progress = _progress(graph)
        if progress.count < LEAST_FOR_VALUE or not progress.gains:
            return None
        looked = progress.count - progress.count // 2
        gains = sum(at > progress.count // 2 for at, _ in progress.gains)
        latest = sorted(gain for _, gain in progress.gains[-_LATEST_GAINS:])
        size = (latest[(len(latest) - 1) // 2] + latest[len(latest) // 2]) / 2
        chance = (gains + 1) / (looked + 2)
        cost = self._cost(progress, looked)
        if not cost > 0:
            return None
        expected = math.expm1(chance * size)
        worth = expected / cost
        if worth >= self.least:
            return None
        text = f"a further candidate is expected to gain {expected:.2%} for {cost:.3g} {self.unit}s"
        how = f"rule of succession over the latest {looked} candidates with {gains} gains, times the median gain"
        return Finished(f"{text}: {worth:.2%} per {self.unit}, {self.least:.2%} asked for", "value", {
            "chance of a gain": Figure(chance, "", Evidence.MODELLED, f"({gains} + 1) / ({looked} + 2)"),
            "size of a gain": Figure(math.expm1(size), "", Evidence.MODELLED, f"median of the latest {len(latest)}"),
            "cost of a candidate": counted(cost, self.unit, f"mean of the latest {looked}"),
            "expected gain": Figure(worth, f"1/{self.unit}", Evidence.MODELLED, how),
        })  # fmt: skip

    def _cost(self, progress: Progress, looked: int) -> float:
        if self.unit == "candidate":
            return 1.0
        spent = {"dollar": progress.money, "device-minute": progress.device}.get(self.unit, progress.seconds)
        before = spent[-looked - 1] if looked < len(spent) else 0.0
        return (spent[-1] - before) / looked / _SECONDS.get(self.unit, 1.0)


@dataclass(frozen=True)
class Drops:
    """So many briefs in a row that no writer could answer: the writer is broken, and asking on would never end."""

    limit: int

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        if graph.drops_in_a_row < self.limit:
            return None
        text = f"the writer failed {self.limit} times in a row; last: {graph.last_drop}"
        return Finished(text, "drops", {"drops in a row": counted(graph.drops_in_a_row, "briefs")})


@dataclass(frozen=True)
class First:
    """The first of `rules` that says stop."""

    rules: Sequence[Termination]

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        said = (rule.reason(graph, active_seconds) for rule in self.rules)
        return next((ended for ended in said if ended is not None), None)


def rules_for(settings: Settings) -> Termination:
    """The rules that `settings` stands for, the first that says stop; the graph must fold `ProgressReducer`."""
    rules: list[Termination] = []
    if settings.target is not None:
        rules.append(Target(settings.target))
    if settings.roofline is not None:
        rules.append(Roofline(settings.roofline))
    rules += [Candidates(settings.candidates), Plateau(settings.plateau), Drops(settings.drops), Time(settings.seconds)]
    if settings.device_seconds is not None:
        rules.append(DeviceTime(settings.device_seconds))
    if settings.tokens is not None:
        rules.append(Tokens(settings.tokens))
    if settings.money_usd is not None:
        rules.append(Money(settings.money_usd))
    if settings.value is not None:
        rules.append(Value(settings.value, settings.value_per))
    return First(tuple(rules))


def _progress(graph: Graph) -> Progress:
    progress: Progress = graph.reduced(ProgressReducer.name)
    return progress
