"""Memory: what this run has already learned about the parents at hand.

In: the graph and the parents. Out: a few lines of text, as many in a long run as in a short one. Left to others: what
other runs have learned (`knowledge`).
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelevolve.events import Evaluated, Event
from kernelevolve.graph import Graph, Node

CHILDREN = 8
ANCESTORS = 8
REPEATS = 4


@dataclass(frozen=True)
class Memory:
    """One line per node: `best` of the run, the latest `lineage` of the first parent, its latest `children`, and the
    latest answers that repeated a kernel of the run (`repeats`), those from the parents at hand first."""

    best: str
    lineage: tuple[str, ...]
    children: tuple[str, ...]
    repeats: tuple[str, ...] = ()


def _keys(parents: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((parent,) for parent in parents) or ((),)


class RepeatsReducer:
    """The latest duplicates by their parents, `()` for fresh drafts."""

    name = "memory.repeats"

    def start(self) -> dict[tuple[str, ...], list[str]]:
        return {}

    def fold(
        self, state: dict[tuple[str, ...], list[str]], event: Event, graph: Graph
    ) -> dict[tuple[str, ...], list[str]]:
        if isinstance(event, Evaluated) and event.duplicate_of:
            # Of one parent each: a crossover's repeats inform whoever goes on from either.
            for key in _keys(graph.nodes[event.candidate].parents):
                latest = state.setdefault(key, [])
                latest.append(event.candidate)
                del latest[:-REPEATS]
        return state


def remember(graph: Graph, parents: tuple[str, ...]) -> Memory:
    """What the graph tells about `parents`."""
    best = line(graph.best) if graph.best is not None else ""
    repeats = repeated(graph, parents)
    if not parents:
        return Memory(best, (), (), repeats)
    line_of_descent: list[Node] = []
    name: str | None = parents[0]
    while name is not None and len(line_of_descent) < ANCESTORS:
        node = graph.nodes[name]
        line_of_descent.append(node)
        name = node.parents[0] if node.parents else None
    tried = [graph.nodes[child] for parent in parents for child in graph.children(parent)[-CHILDREN:]]
    return Memory(best, tuple(line(n) for n in reversed(line_of_descent)), tuple(line(n) for n in tried), repeats)


def repeated(graph: Graph, parents: tuple[str, ...]) -> tuple[str, ...]:
    """The latest answers to briefs with these parents that repeated a kernel, each with what it repeats and how."""
    known = graph.reduced(RepeatsReducer.name)
    found = dict.fromkeys(name for key in _keys(parents) for name in known.get(key, ()))
    return tuple(_repeat(graph.nodes[name]) for name in found)


def _repeat(node: Node) -> str:
    said = next((label for label in node.evaluation.labels if label.startswith("duplicate of ")), "")
    note = f". {node.candidate.note}" if node.candidate.note else ""
    return f"{node.id}: {said or f'duplicate of {node.duplicate_of}'}{note}"


def line(node: Node) -> str:
    """`n3 (from n1): OK_FASTER, fitness 1.31 x (measured). Note by the writer.`"""
    came = f"from {', '.join(node.parents)}" if node.parents else "fresh"
    fitness = f"fitness {node.fitness.value:.3g} {node.fitness.unit} ({node.fitness.evidence.value})"
    said = f". {node.candidate.note}" if node.candidate.note else ""
    again = f", duplicate of {node.duplicate_of}" if node.duplicate_of else ""
    return f"{node.id} ({came}): {node.evaluation.verdict.value}, {fitness}{again}{said}"
