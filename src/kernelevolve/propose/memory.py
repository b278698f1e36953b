"""Memory: what this run has already learned about the parents at hand.

In: the graph and the parents. Out: a few lines of text, as many in a long run as in a short one. Left to others: what
other runs have learned (`knowledge`).
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelevolve.graph import Graph, Node

CHILDREN = 8
ANCESTORS = 8


@dataclass(frozen=True)
class Memory:
    """One line per node: `best` of the run, the latest `lineage` of the first parent, its latest `children`."""

    best: str
    lineage: tuple[str, ...]
    children: tuple[str, ...]


def remember(graph: Graph, parents: tuple[str, ...]) -> Memory:
    """What the graph tells about `parents`."""
    best = line(graph.best) if graph.best is not None else ""
    if not parents:
        return Memory(best, (), ())
    line_of_descent: list[Node] = []
    name: str | None = parents[0]
    while name is not None and len(line_of_descent) < ANCESTORS:
        node = graph.nodes[name]
        line_of_descent.append(node)
        name = node.parents[0] if node.parents else None
    tried = [graph.nodes[child] for parent in parents for child in graph.children(parent)[-CHILDREN:]]
    return Memory(best, tuple(line(n) for n in reversed(line_of_descent)), tuple(line(n) for n in tried))


def line(node: Node) -> str:
    """`n3 (from n1): OK_FASTER, fitness 1.31 x (measured). Note by the writer.`"""
    came = f"from {', '.join(node.parents)}" if node.parents else "fresh"
    fitness = f"fitness {node.fitness.value:.3g} {node.fitness.unit} ({node.fitness.evidence.value})"
    said = f". {node.candidate.note}" if node.candidate.note else ""
    again = f", duplicate of {node.duplicate_of}" if node.duplicate_of else ""
    return f"{node.id} ({came}): {node.evaluation.verdict.value}, {fitness}{again}{said}"
