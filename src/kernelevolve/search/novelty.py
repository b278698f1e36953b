"""Duplicates: the same source, or different source that compiled to the same machine code.

In: the graph, a candidate, its evaluation. Out: the node that it repeats, and the label that says how. Left to others:
what to do about it: the same source is not measured again (`run`), duplicates are no parents (`search.greedy`).
"""

from __future__ import annotations

from dataclasses import replace

from kernelevolve.candidate import Candidate
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import Evaluated, Event
from kernelevolve.graph import Graph, Node

Binaries = tuple[tuple[str, int], ...]


def binaries(evaluation: Evaluation) -> Binaries:
    """The machine code of all launches on the objective platform, in order, with what is not in the code: the warps;
    empty where nothing was built."""
    return tuple((r.binary, r.warps) for r in evaluation.resources.get(evaluation.platform, ()) if r.binary)


class BinariesReducer:
    """Maps machine code to the first node that has it."""

    name = "novelty.binaries"

    def start(self) -> dict[Binaries, str]:
        return {}

    def fold(self, state: dict[Binaries, str], event: Event, graph: Graph) -> dict[Binaries, str]:
        if isinstance(event, Evaluated) and (code := binaries(event.evaluation)):
            state.setdefault(code, event.candidate)
        return state


def same_source(graph: Graph, candidate: Candidate) -> Node | None:
    """The first node with the same source, byte for byte."""
    first = graph.with_digest(candidate.digest)
    return graph.nodes[first] if first else None


def told_as_duplicate(graph: Graph, candidate: Candidate, evaluation: Evaluation) -> tuple[str, Evaluation]:
    """The node that `candidate` repeats (empty for none) and its evaluation, labelled if it repeats one.

    The same machine code under another grid computes another thing, so a candidate counts as a duplicate by machine
    code only where the verdict is the same too.
    """
    twin = same_source(graph, candidate)
    how = "same source"
    if twin is None and (code := binaries(evaluation)):
        first = graph.reduced(BinariesReducer.name).get(code, "")
        twin = graph.nodes[first] if first and graph.nodes[first].evaluation.verdict is evaluation.verdict else None
        how = "same machine code"
    if twin is None:
        return "", evaluation
    label = f"duplicate of {twin.id} ({how})"
    others = tuple(text for text in evaluation.labels if not text.startswith("duplicate of "))
    return twin.id, replace(evaluation, labels=(*others, label))
