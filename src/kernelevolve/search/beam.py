"""Beam: the few best nodes side by side, level by level; what falls out of the beam is left behind.

In: the graph. Out: one parent, or none while drafts are made. Left to others: everything random.

A level gives each of its members so many children; when all of them are told or dropped, the best of members and
children together are the next level. A member that none of its children beats stays.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.errors import UsageError
from kernelevolve.events import Asked, Dropped, Evaluated, Event
from kernelevolve.graph import Graph
from kernelevolve.search.frontier import Frontier, FrontierReducer, Ranked, Waiting


@dataclass
class Level:
    """One level of the beam.

    Attributes:
        number: of levels before it; drafts make level 0.
        members: ids of the parents with how many children were asked for in this level, best first.
        ended: children of each member that were told or dropped.
        pool: members and their children, at most `width`, of which the next level is made.
    """

    number: int = 0
    members: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    pool: Ranked = field(default_factory=Ranked)
    waiting: Waiting = field(default_factory=Waiting)


class LevelReducer:
    """Keeps the Level.

    Args:
        width: members of a level.
        children: of each member before the next level.
        drafts: told before the first level.
    """

    name = "beam.level"

    def __init__(self, width: int, children: int, drafts: int) -> None:
        self._width, self._children, self._drafts = width, children, drafts

    def start(self) -> Level:
        return Level()

    def fold(self, state: Level, event: Event, graph: Graph) -> Level:
        brief = state.waiting.ended_by(event, graph)
        if isinstance(event, Asked):
            for parent in event.brief.parents[:1]:
                if parent in state.members:
                    state.members[parent] += 1
            return state
        if brief is None:
            return state
        for parent in brief.parents[:1]:
            if parent in state.members:
                state.ended[parent] += 1
        if isinstance(event, Evaluated):
            node = graph.nodes[event.candidate]
            if node.correct and not node.duplicate_of:
                state.pool.add(node)
                del state.pool.keys[: -self._width]
        elif isinstance(event, Dropped) and event.exhausted and len(brief.parents) == 1:
            state.pool.remove(graph.nodes[brief.parents[0]])
            state.members.pop(brief.parents[0], None)
        if self._is_over(state, graph):
            best = state.pool.first(self._width)
            state.members, state.ended = dict.fromkeys(best, 0), dict.fromkeys(best, 0)
            state.number += bool(best)
        return state

    def save(self, state: Level, graph: Graph) -> Any:
        """See `Restorable.save`."""
        pool = state.pool.indices
        return {"number": state.number, "members": state.members, "ended": state.ended, "pool": pool}

    def restore(self, data: Any, graph: Graph) -> Level:
        """See `Restorable.restore`."""
        pool = Ranked.of(data["pool"], tuple(graph.nodes.values()))
        return Level(data["number"], data["members"], data["ended"], pool, Waiting.of(graph))

    def _is_over(self, state: Level, graph: Graph) -> bool:
        if state.members:
            return all(state.ended[name] >= self._children for name in state.members)
        drafting = any(not brief.parents for brief in state.waiting.briefs.values())
        return graph.is_exhausted(()) or (graph.drafts >= self._drafts and not drafting)


class Beam:
    """Drafts, then level by level the `width` best nodes, each with `children` children.

    Nobody waits for the end of a level: while its last children are written or measured, a further child is asked for
    where there are fewest.

    Args:
        width: nodes that are gone on from side by side; at least 1.
        children: of each of them before the next level; at least 1.
        drafts: before the first level; at least 1.
        repairs: see `Greedy`.
    """

    def __init__(self, width: int = 2, children: int = 2, drafts: int = 2, repairs: int = 3) -> None:
        if min(width, children, drafts, repairs) < 1:
            raise UsageError(
                f"beam needs at least 1 of each, got width={width}, children={children}, drafts={drafts}, "
                f"repairs={repairs}"
            )
        self._drafts = drafts
        self.reducers = (LevelReducer(width, children, drafts), FrontierReducer(repairs))

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        """See `Policy.select`."""
        if graph.drafts < self._drafts and not graph.is_exhausted(()):
            return ()
        level: Level = graph.reduced(LevelReducer.name)
        if level.members:
            return (min(level.members, key=lambda name: level.members[name]),)
        frontier: Frontier = graph.reduced(FrontierReducer.name)
        return frontier.parents
