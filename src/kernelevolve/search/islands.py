"""Islands: populations that evolve apart, and now and then send their best one on.

In: the graph. Out: one parent, or two for a crossover, or none. Left to others: what a crossover is (the writer).

The brief with index i belongs to island i modulo their number, and so does its child: the log says where everybody
lives without a field of its own. Migration goes around a ring.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.errors import UsageError
from kernelevolve.events import Asked, Dropped, Evaluated, Event
from kernelevolve.graph import Graph, Node
from kernelevolve.search.frontier import Frontier, FrontierReducer, Ranked, Waiting, hopeless, key_of


@dataclass
class Island:
    """One population.

    Attributes:
        members: the best of those born here or migrated here that have moves left.
        faulty: the latest faulty node born here that may be repaired; empty where there is none.
        drafts: drafts asked for here since it was settled, dropped ones not counted.
        born: children told here.
        since_best: children told here since one was better than all before.
        arrived: how many members came from the neighbour.
        settled: how often it was given up and settled anew.
    """

    members: Ranked = field(default_factory=Ranked)
    faulty: str = ""
    drafts: int = 0
    born: int = 0
    since_best: int = 0
    arrived: int = 0
    settled: int = 0


@dataclass
class Archipelago:
    """All islands, in the order of the ring."""

    islands: tuple[Island, ...]
    waiting: Waiting = field(default_factory=Waiting)


class ArchipelagoReducer:
    """Keeps the islands: births, deaths of the worst, migration, and new settlements.

    Args:
        islands, size, migration, stall, repairs: see `Islands`.
    """

    name = "islands.archipelago"

    def __init__(self, islands: int, size: int, migration: int, stall: int, repairs: int) -> None:
        self._islands, self._size, self._migration, self._stall = islands, size, migration, stall
        self._repairs = repairs

    def start(self) -> Archipelago:
        return Archipelago(tuple(Island() for _ in range(self._islands)))

    def fold(self, state: Archipelago, event: Event, graph: Graph) -> Archipelago:
        brief = state.waiting.ended_by(event, graph)
        if isinstance(event, Asked):
            state.islands[event.brief.index % self._islands].drafts += not event.brief.parents
        elif brief is not None:
            at = brief.index % self._islands
            if isinstance(event, Evaluated):
                self._born(state, at, graph.nodes[event.candidate], graph)
            elif isinstance(event, Dropped):
                state.islands[at].drafts -= not brief.parents and state.islands[at].drafts > 0
                if event.exhausted and len(brief.parents) == 1:
                    _gone(state, graph.nodes[brief.parents[0]])
        return state

    def save(self, state: Archipelago, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return [{**vars(island), "members": island.members.indices} for island in state.islands]

    def restore(self, data: Any, graph: Graph) -> Archipelago:
        """See `Restorable.restore`."""
        nodes = tuple(graph.nodes.values())
        islands = (Island(**{**kept, "members": Ranked.of(kept["members"], nodes)}) for kept in data)
        return Archipelago(tuple(islands), Waiting.of(graph))

    def _born(self, state: Archipelago, at: int, node: Node, graph: Graph) -> None:
        island = state.islands[at]
        best_before = island.members.keys[-1] if island.members else None
        island.born, island.since_best = island.born + 1, island.since_best + 1
        if node.correct and not node.duplicate_of:
            self._take_in(island, node)
            if best_before is None or key_of(node) > best_before:
                island.since_best = 0
        elif not node.duplicate_of and not hopeless(node, graph, self._repairs):
            island.faulty = node.id
        if island.since_best >= self._stall and graph.best is not None and graph.best not in island.members:
            island.members, island.faulty = Ranked(), ""
            island.drafts, island.since_best, island.settled = 0, 0, island.settled + 1
        elif island.born % self._migration == 0 and self._islands > 1 and island.members:
            neighbour, leaving = state.islands[(at + 1) % self._islands], graph.nodes[island.members.best]
            if leaving not in neighbour.members:
                self._take_in(neighbour, leaving)
                neighbour.arrived += leaving in neighbour.members

    def _take_in(self, island: Island, node: Node) -> None:
        island.members.add(node)
        del island.members.keys[: -self._size]


def _gone(state: Archipelago, node: Node) -> None:
    for island in state.islands:
        island.members.remove(node)
        if island.faulty == node.id:
            island.faulty = ""


class Islands:
    """Each ask is the next island's turn: its drafts, then children of parents that won a tournament there.

    An island without members repairs its latest faulty node, else drafts anew, else takes its neighbour's best.

    Args:
        islands: how many populations; at least 1.
        drafts: in all, shared among the islands; each has one at least.
        size: members of an island; the worst dies; at least 1.
        crossover: probability that a child has two parents where an island has two; between 0 and 1.
        tournament: members drawn, of which the best becomes the parent; at least 1, and the larger the greedier.
        migration: children on an island after which its best goes to the next one too; at least 1.
        stall: children on an island without a better one after which it is given up and settled anew with drafts,
            unless it has the run's best; at least 1.
        repairs: see `Greedy`.
    """

    def __init__(
        self,
        islands: int = 5,
        drafts: int = 5,
        size: int = 10,
        crossover: float = 0.5,
        tournament: int = 3,
        migration: int = 5,
        stall: int = 20,
        repairs: int = 3,
    ) -> None:
        if min(islands, drafts, size, tournament, migration, stall, repairs) < 1 or not 0 <= crossover <= 1:
            raise UsageError(
                "islands needs at least 1 of each and a crossover between 0 and 1, got "
                f"islands={islands}, drafts={drafts}, size={size}, crossover={crossover}, tournament={tournament}, "
                f"migration={migration}, stall={stall}, repairs={repairs}"
            )
        self._drafts = -(-drafts // islands)
        self._crossover, self._tournament = crossover, tournament
        self.reducers = (
            ArchipelagoReducer(islands, size, migration, stall, repairs),
            FrontierReducer(repairs),
        )

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        """See `Policy.select`."""
        islands = graph.reduced(ArchipelagoReducer.name).islands
        at = graph.asked % len(islands)
        island: Island = islands[at]
        no_drafts = graph.is_exhausted(())
        if island.drafts < self._drafts and not no_drafts:
            return ()
        if island.members:
            return self._parents(graph, island, rng)
        if island.faulty:
            return (island.faulty,)
        if not no_drafts:
            return ()
        others = [islands[(at - step) % len(islands)] for step in range(1, len(islands))]
        frontier: Frontier = graph.reduced(FrontierReducer.name)
        return next(((other.members.best,) for other in others if other.members), frontier.parents)

    def _parents(self, graph: Graph, island: Island, rng: random.Random) -> tuple[str, ...]:
        keys = island.members.keys
        first = max(rng.randrange(len(keys)) for _ in range(self._tournament))
        if len(keys) > 1 and rng.random() < self._crossover:
            second = rng.randrange(len(keys) - 1)
            second += second >= first
            better, other = keys[max(first, second)][-1], keys[min(first, second)][-1]
            if not graph.is_exhausted((better, other)):
                return (better, other)
        return (keys[first][-1],)
