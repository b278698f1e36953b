"""Duplicates: the same source, the same program under other names, or source that compiled to the same machine code.

In: the graph, a candidate, its evaluation. Out: the node that it repeats, and the label that says how. Left to others:
which program a source is (`search.program`), and what to do about a duplicate: the same source or program is not
measured again (`run`), duplicates are no parents (`search.greedy`), the next brief tells them (`propose.memory`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from kernelevolve.candidate import Candidate
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import Evaluated, Event
from kernelevolve.graph import Graph, Node


def binaries_digest(evaluation: Evaluation) -> str:
    """A digest of the machine code of all launches on the objective platform, in order, with what is not in the code:
    the warps; empty where nothing was built."""
    launches = evaluation.resources.get(evaluation.platform, ())
    code = ",".join(f"{r.binary} {r.warps}" for r in launches if r.binary)
    return hashlib.sha256(code.encode()).hexdigest()[:32] if code else ""


class BinariesReducer:
    """Maps machine code, by its digest, to the first node that has it."""

    name = "novelty.binaries"

    def start(self) -> dict[str, str]:
        return {}

    def fold(self, state: dict[str, str], event: Event, graph: Graph) -> dict[str, str]:
        if isinstance(event, Evaluated) and (code := binaries_digest(event.evaluation)):
            state.setdefault(code, event.candidate)
        return state

    def save(self, state: dict[str, str], graph: Graph) -> Any:
        """See `Restorable.save`."""
        return state

    def restore(self, data: Any, graph: Graph) -> dict[str, str]:
        """See `Restorable.restore`."""
        return dict(data)


class ProgramsReducer:
    """Maps a program, whatever its names, to the first node that has it."""

    name = "novelty.programs"

    def start(self) -> dict[str, str]:
        return {}

    def fold(self, state: dict[str, str], event: Event, graph: Graph) -> dict[str, str]:
        if isinstance(event, Evaluated) and (program := graph.nodes[event.candidate].candidate.program):
            state.setdefault(program, event.candidate)
        return state

    def save(self, state: dict[str, str], graph: Graph) -> Any:
        """See `Restorable.save`."""
        return state

    def restore(self, data: Any, graph: Graph) -> dict[str, str]:
        """See `Restorable.restore`."""
        return dict(data)


def same_text(graph: Graph, candidate: Candidate) -> tuple[Node, str] | None:
    """The first node that is known by its text alone to be the same kernel, and how: the same source byte for byte, or
    the same program under other names."""
    if first := graph.with_digest(candidate.digest):
        return graph.nodes[first], "same source"
    if candidate.program and (first := graph.reduced(ProgramsReducer.name).get(candidate.program, "")):
        return graph.nodes[first], "same program under other names"
    return None


def told_as_duplicate(graph: Graph, candidate: Candidate, evaluation: Evaluation) -> tuple[str, Evaluation]:
    """The node that `candidate` repeats (empty for none) and its evaluation, labelled if it repeats one.

    The same machine code under another grid computes another thing, so a candidate counts as a duplicate by machine
    code only where the verdict is the same too.
    """
    twin, how = same_text(graph, candidate) or (None, "")
    if twin is None and (code := binaries_digest(evaluation)):
        first = graph.reduced(BinariesReducer.name).get(code, "")
        twin = graph.nodes[first] if first and graph.nodes[first].verdict is evaluation.verdict else None
        how = "same machine code"
    if twin is None:
        return "", evaluation
    label = f"duplicate of {twin.id} ({how})"
    found = first_of_its_kind(evaluation)
    return twin.id, replace(found, labels=(*found.labels, label))


def first_of_its_kind(evaluation: Evaluation) -> Evaluation:
    """`evaluation` without a label that says whom it repeats."""
    return replace(evaluation, labels=tuple(t for t in evaluation.labels if not t.startswith("duplicate of ")))
