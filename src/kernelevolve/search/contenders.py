"""Which nodes of a run may be its best, and what measuring them again says.

In: the graph of a run whose times were measured; then what was found when these nodes were measured once more. Out: the
nodes, best first; the note that has the run's result. Left to others: measuring (`run`).

The best of many is biased upward by having been chosen: of a hundred equal candidates at 1 % noise, by 2.5 %.
So the rank in a search is a rank by screen, and only what is measured again, with new inputs in fresh processes and
with intervals widened for the number measured, is a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernelevolve import codec
from kernelevolve.evaluation import Evaluation, Evidence, Figure
from kernelevolve.events import Noted
from kernelevolve.graph import RESULT, Graph, Node

MOST = 5


@dataclass(frozen=True)
class Again:
    """One node as it was ranked by screen and as it was measured again."""

    node: str
    screen: Figure
    fitness: Figure
    evaluation: Evaluation


def contenders(graph: Graph) -> tuple[Node, ...]:
    """At most five measured, correct nodes whose intervals reach the best one's, best first; none twice."""
    best = graph.best
    if best is None or best.fitness.evidence is not Evidence.MEASURED or best.fitness.value <= 0:
        return ()
    least = best.fitness.low or best.fitness.value
    able = [
        node
        for node in graph.nodes.values()
        if node.correct
        and node.fitness.evidence is Evidence.MEASURED
        and not node.duplicate_of
        and (node.fitness.high or node.fitness.value) >= least
    ]
    able.sort(key=lambda node: (node.id != best.id, -node.fitness.value, node.index))
    different: dict[str, Node] = {}
    for node in able:  # the control may have written the same as the search
        different.setdefault(node.candidate.digest, node)
        if len(different) == MOST:
            break
    return tuple(different.values())


def measured_again(graph: Graph, nodes: Sequence[Node]) -> bool:
    """Whether the latest result rests on these very nodes."""
    known = graph.result
    return known is not None and [again["node"] for again in known.data["again"]] == [node.id for node in nodes]


def result(again: Sequence[Again]) -> Noted:
    """The run's result as a note: the one of the largest lower bound among those that are still correct."""
    right = [a for a in again if a.evaluation.correct and a.fitness.value > 0]
    best = max(right, key=lambda a: a.fitness.low or a.fitness.value, default=None)
    data = {"result": best.node if best else "", "again": codec.to_data(tuple(again))}
    if best is None:
        verdicts = ", ".join(f"{a.node} {a.evaluation.verdict.value}" for a in again)
        return Noted(RESULT, f"no candidate held when measured again in lane accept: {verdicts}", data)
    figure = best.fitness
    interval = f" [{figure.low:.4g}, {figure.high:.4g}]" if figure.low and figure.high else ""
    return Noted(
        RESULT,
        f"{best.node}: {figure.value:.4g}x{interval}, {best.evaluation.verdict.value}, measured again in lane accept "
        f"with intervals for the best of {len(again)}; {best.screen.value:.4g}x by screen",
        data,
    )
