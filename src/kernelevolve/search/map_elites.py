"""MAP-Elites: an archive of the best node of each kind, so that a slow but different kernel stays a parent.

In: the graph. Out: one elite, or two of different cells for a crossover, or none while drafts are made. Left to others:
what the kinds are (`features`), what a crossover is (the writer).

After Mouret and Clune, "Illuminating search spaces by mapping elites" (2015): parents are drawn evenly from the
occupied cells; a share of the asks goes to the best of all instead.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.errors import UsageError
from kernelevolve.events import Dropped, Evaluated, Event
from kernelevolve.graph import Graph
from kernelevolve.search.features import Cell, cell_of
from kernelevolve.search.frontier import Frontier, FrontierReducer, Ranked, Waiting


@dataclass
class Archive:
    """Correct nodes with moves left by cell; the best of each is its elite, and the next takes its place when it is
    exhausted. A cell without any is not in it."""

    cells: dict[Cell, Ranked] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)


class ArchiveReducer:
    """Keeps the Archive."""

    name = "map_elites.archive"

    def start(self) -> Archive:
        return Archive()

    def fold(self, state: Archive, event: Event, graph: Graph) -> Archive:
        brief = state.waiting.ended_by(event, graph)
        if isinstance(event, Evaluated):
            node = graph.nodes[event.candidate]
            if node.correct and not node.duplicate_of:
                state.cells.setdefault(cell_of(node), Ranked()).add(node)
        elif brief is not None and isinstance(event, Dropped) and event.exhausted and len(brief.parents) == 1:
            gone = graph.nodes[brief.parents[0]]
            cell = cell_of(gone)
            if cell in state.cells:
                state.cells[cell].remove(gone)
                if not state.cells[cell]:
                    del state.cells[cell]
        return state

    def save(self, state: Archive, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return [[cell, ranked.indices] for cell, ranked in state.cells.items()]

    def restore(self, data: Any, graph: Graph) -> Archive:
        """See `Restorable.restore`."""
        nodes = tuple(graph.nodes.values())
        return Archive({Cell(*cell): Ranked.of(indices, nodes) for cell, indices in data}, Waiting.of(graph))


class MapElites:
    """Drafts, then children of the archive's elites.

    Args:
        drafts: before the first improvement, pending ones included; at least 1.
        crossover: probability that a child has two parents where two cells are occupied; between 0 and 1.
        exploit: probability that the first parent is the best of all; otherwise its cell is drawn evenly; between 0
            and 1.
        repairs: see `Greedy`.
    """

    def __init__(self, drafts: int = 5, crossover: float = 0.5, exploit: float = 0.25, repairs: int = 3) -> None:
        if drafts < 1 or repairs < 1 or not 0 <= crossover <= 1 or not 0 <= exploit <= 1:
            raise UsageError(
                "map_elites needs at least 1 draft and 1 repair, and shares between 0 and 1, got "
                f"drafts={drafts}, repairs={repairs}, crossover={crossover}, exploit={exploit}"
            )
        self._drafts, self._crossover, self._exploit = drafts, crossover, exploit
        self.reducers = (ArchiveReducer(), FrontierReducer(repairs))

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        """See `Policy.select`."""
        if graph.drafts < self._drafts and not graph.is_exhausted(()):
            return ()
        frontier: Frontier = graph.reduced(FrontierReducer.name)
        # There are a few hundred cells at most, whatever the length of the run.
        elites = [ranked.best for ranked in graph.reduced(ArchiveReducer.name).cells.values()]
        if not elites:
            return frontier.parents
        first = frontier.correct.best if rng.random() < self._exploit else rng.choice(elites)
        others = [elite for elite in elites if elite != first]
        if others and rng.random() < self._crossover:
            second = rng.choice(others)
            pair = sorted((first, second), key=lambda name: graph.nodes[name].rank, reverse=True)
            if not graph.is_exhausted(tuple(pair)):
                return tuple(pair)
        return (first,)
