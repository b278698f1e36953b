"""What a run took over from earlier ones, and whether its search went beyond that.

In: the graph of a run. Out: the option that asks for it; lines of text and plain data. Left to others: what is near and
fits (`propose.warm`). A candidate that was taken over is no find of the search, however fast it is.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kernelevolve import Graph, Node, seeds_of, to_data
from kernelevolve.cli import words

TOPIC = "warm-start"
WarmStart = Annotated[
    str,
    typer.Option(
        "--warm-start",
        help="begin with the best candidates of earlier runs, evaluated anew: auto (near runs beside this one), none, "
        "or the folder of a run",
    ),
]


def facts(graph: Graph) -> dict[str, Any] | None:
    """What was taken from where, and the best of it beside the search's own best; None without a warm start."""
    notes = [note for note in graph.notes if note.topic == TOPIC]
    if not notes:
        return None
    seed, own = _bests(graph)
    return {
        "said": "; ".join(note.text for note in notes),
        "seeds": [
            {"origin": seed.origin, "how": seed.how, "fitness_there": to_data(seed.fitness),
             "node": node.id if node else None, "verdict": str(node.evaluation.verdict) if node else None,
             "fitness": to_data(node.fitness) if node else None}
            for seed, node in seeds_of(graph)
        ],
        "best_seed": seed.id if seed else None,
        "best_found": own.id if own else None,
        "found_better": (seed is None and own is not None) or _beats(own, seed),
    }  # fmt: skip


def lines(graph: Graph) -> list[str]:
    """The same for people; nothing without a warm start."""
    notes = [note for note in graph.notes if note.topic == TOPIC]
    if not notes:
        return []
    out = [f"  warm start   {'; '.join(note.text for note in notes)}"]
    for seed, node in seeds_of(graph):
        now = "not evaluated yet" if node is None else f"{node.id} {words.fitness(node)}"
        out.append(f"  {'':<12} {seed.origin}: {now} here")
    seed_best, own = _bests(graph)
    if seed_best is not None and own is not None and _beats(own, seed_best):
        went = f"{words.fitness(seed_best)} of the best seed to {words.fitness(own)}, {own.id}"
        out.append(f"  {'':<12} the search went from {went}")
    elif seed_best is not None:
        best = f"its own best is {own.id}, {words.fitness(own)}" if own is not None else "it has no correct one"
        out.append(f"  {'':<12} the search found nothing faster than the best seed, {seed_best.id}; {best}")
    return out


def _bests(graph: Graph) -> tuple[Node | None, Node | None]:
    """The best correct seed, and the best correct candidate that this run made."""
    able = [node for node in graph.nodes.values() if node.evaluation.correct and not node.duplicate_of]
    seeds = [node for node in able if node.candidate.origin]
    own = [node for node in able if not node.candidate.origin]
    return _best(seeds), _best(own)


def _best(nodes: list[Node]) -> Node | None:
    return max(nodes, key=lambda node: (node.rank, -node.index), default=None)


def _beats(own: Node | None, seed: Node | None) -> bool:
    return own is not None and seed is not None and own.rank > seed.rank
