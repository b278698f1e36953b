"""Monte-Carlo tree search: go down where value and ignorance are highest, and grow the first node that has room.

In: the graph. Out: one parent, or none where the root has room. Left to others: everything random: ties go to the
earliest.

UCT (Kocsis and Szepesvari 2006) over the tree of first parents. A node's value is the mean over its subtree of
log(fitness), scaled so that the worst correct node of the run is 0 and the best is 1; faulty nodes and duplicates are
0. A pending child counts as a visit of value 0 on its whole path until it is told (virtual loss: Chaslot, Winands and
van den Herik 2008), so that writers side by side spread out.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from kernelevolve.errors import UsageError
from kernelevolve.events import Asked, Dropped, Evaluated, Event
from kernelevolve.graph import Graph, Node
from kernelevolve.search.frontier import Frontier, FrontierReducer, Waiting, hopeless

ROOT = ""
#: What a Place counts, in the order of its fields.
_COUNTS = ("visits", "virtual", "evidence", "timed", "logs", "asked", "closed")


@dataclass(slots=True)
class Place:
    """A node in the tree with what is known of its subtree; `ROOT` stands above all drafts.

    Attributes:
        parent: the place above; the root is its own.
        visits: nodes told in the subtree, itself included.
        virtual: pending briefs in the subtree.
        evidence: rank of the strongest evidence of a fitness in the subtree.
        timed, logs: how many nodes have a fitness of that evidence, and the sum of its logarithms.
        asked: children asked for and not dropped.
        closed: it grows no more: a duplicate, hopeless, or exhausted.
        open: children in whose subtree there is room, in the order they got it.
    """

    parent: str
    visits: int = 0
    virtual: int = 0
    evidence: int = -1
    timed: int = 0
    logs: float = 0.0
    asked: int = 0
    closed: bool = False
    open: dict[str, None] = field(default_factory=dict)


@dataclass
class Tree:
    """All places by node id, and the scale of values: the strongest evidence, least and largest log(fitness) of it."""

    places: dict[str, Place] = field(default_factory=lambda: {ROOT: Place(ROOT)})
    waiting: Waiting = field(default_factory=Waiting)
    evidence: int = -1
    least: float = 0.0
    largest: float = 0.0

    def value(self, place: Place) -> float:
        """Mean value of the subtree, pending children counted as 0; between 0 and 1."""
        count = place.visits + place.virtual
        if not count or place.evidence < self.evidence:
            return 0.0
        spread = self.largest - self.least
        total = (place.logs - place.timed * self.least) / spread if spread > 0 else float(place.timed)
        return total / count


class TreeReducer:
    """Keeps the Tree: virtual visits as briefs are asked, values as they are told, room as it comes and goes.

    Args:
        drafts, children: room at the root and at each node.
        repairs: see `FrontierReducer`.
    """

    name = "mcts.tree"

    def __init__(self, drafts: int, children: int, repairs: int) -> None:
        self._drafts, self._children, self._repairs = drafts, children, repairs

    def start(self) -> Tree:
        return Tree()

    def fold(self, state: Tree, event: Event, graph: Graph) -> Tree:
        brief = state.waiting.ended_by(event, graph)
        if isinstance(event, Asked):
            above = _above(event.brief.parents)
            state.places[above].asked += 1
            self._on_path(state, above, 1)
            self._refresh(state, above)
        elif brief is not None:
            above = _above(brief.parents)
            self._on_path(state, above, -1)
            if isinstance(event, Evaluated):
                self._told(state, graph.nodes[event.candidate], above, graph)
            elif isinstance(event, Dropped):
                state.places[above].asked -= 1
                state.places[above].closed |= event.exhausted and len(brief.parents) <= 1
            self._refresh(state, above)
        return state

    def save(self, state: Tree, graph: Graph) -> Any:
        """See `Restorable.save`. In columns, by the places of the nodes in the graph, which the tree's are in too."""
        at = {name: index for index, name in enumerate(state.places)}
        places = state.places.values()
        return {
            "scale": [state.evidence, state.least, state.largest],
            "parent": [at[place.parent] for place in places],
            **{name: [getattr(place, name) for place in places] for name in _COUNTS},
            "opened": [len(place.open) for place in places],
            "open": [at[name] for place in places for name in place.open],
        }

    def restore(self, data: Any, graph: Graph) -> Tree:
        """See `Restorable.restore`."""
        names = (ROOT, *graph.nodes)
        parents = [names[index] for index in data["parent"]]
        below = iter([names[index] for index in data["open"]])
        opened = [dict.fromkeys(islice(below, count)) if count else {} for count in data["opened"]]
        places = map(Place, parents, *(data[name] for name in _COUNTS), opened)
        return Tree(dict(zip(names, places, strict=True)), Waiting.of(graph), *data["scale"])

    def has_room(self, name: str, place: Place) -> bool:
        """Whether another child may be asked for here."""
        return not place.closed and place.asked < (self._children if name else self._drafts)

    def _told(self, state: Tree, node: Node, above: str, graph: Graph) -> None:
        new = not node.duplicate_of
        place = Place(above, closed=not new or hopeless(node, graph, self._repairs))
        state.places[node.id] = place
        evidence, log = -1, 0.0
        if new and node.correct and node.fitness.value > 0:
            evidence, log = node.fitness.evidence.rank, math.log(node.fitness.value)
            if evidence > state.evidence:
                state.evidence, state.least, state.largest = evidence, log, log
            elif evidence == state.evidence:
                state.least, state.largest = min(state.least, log), max(state.largest, log)
        name = node.id
        while True:
            place = state.places[name]
            place.visits += 1
            if evidence > place.evidence:
                place.evidence, place.timed, place.logs = evidence, 0, 0.0
            if evidence >= 0 and evidence == place.evidence:
                place.timed, place.logs = place.timed + 1, place.logs + log
            if name == ROOT:
                break
            name = place.parent
        self._refresh(state, node.id)

    @staticmethod
    def _on_path(state: Tree, name: str, change: int) -> None:
        while True:
            place = state.places[name]
            place.virtual += change
            if name == ROOT:
                return
            name = place.parent

    def _refresh(self, state: Tree, name: str) -> None:
        """Tells the places above `name` whether there is room below them, as far up as that changes anything."""
        while name != ROOT:
            place = state.places[name]
            siblings = state.places[place.parent].open
            room = bool(place.open) or self.has_room(name, place)
            if room == (name in siblings):
                return
            if room:
                siblings[name] = None
            else:
                del siblings[name]
            name = place.parent


def _above(parents: tuple[str, ...]) -> str:
    return parents[0] if parents else ROOT


class Mcts:
    """Drafts and children first, then down the tree by UCT to the first node that has room for a child.

    Args:
        drafts: children of the root; at least 1.
        children: of each node, pending ones included, before the search goes further down; at least 1.
        exploration: the constant c of UCT; the larger, the wider the tree.
        repairs: see `Greedy`.
    """

    def __init__(self, drafts: int = 5, children: int = 5, exploration: float = 0.25, repairs: int = 3) -> None:
        if drafts < 1 or children < 1 or repairs < 1 or not 0 <= exploration < math.inf:
            raise UsageError(
                "mcts needs at least 1 draft, child and repair and a finite exploration of at least 0, got "
                f"drafts={drafts}, children={children}, repairs={repairs}, exploration={exploration}"
            )
        self._exploration = exploration
        self._tree = TreeReducer(drafts, children, repairs)
        self.reducers = (self._tree, FrontierReducer(repairs))

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        """See `Policy.select`."""
        tree: Tree = graph.reduced(TreeReducer.name)
        name = ROOT
        while True:
            place = tree.places[name]
            if self._tree.has_room(name, place):
                return (name,) if name else ()
            if not place.open:
                # Only the root gets here: what has no room below it is not open. So the tree widens at its best.
                frontier: Frontier = graph.reduced(FrontierReducer.name)
                return frontier.parents
            name = self._best_child(tree, place)

    def _best_child(self, tree: Tree, place: Place) -> str:
        known = math.log(max(1, place.visits + place.virtual))

        def uct(child: str) -> float:
            below = tree.places[child]
            return tree.value(below) + self._exploration * math.sqrt(known / (below.visits + below.virtual))

        return max(place.open, key=uct)
