"""The search: which parents come next, what a candidate is worth, when to stop.

In: the graph. Out: parents, a fitness, a reason. Left to others: asking, writing, measuring (`run`).
"""

from __future__ import annotations

import random
from typing import Protocol

from kernelevolve.events import Finished
from kernelevolve.graph import Graph, Reducer


class Policy(Protocol):
    """Chooses the parents of the next child. A pure function of its arguments that keeps nothing between calls.

    Built as `Class(**args)` from its registered name. What it needs at scale it declares in `reducers`, whose states it
    reads with `graph.reduced(name)`; `select` never scans all nodes, so that an ask costs the same in a long run.

    Pending briefs are in the graph: a policy that counts anything (drafts, visits) counts them too. It avoids parents
    with `graph.is_exhausted(parents)`; when it selects such parents, it says that nothing else is left, and the run
    ends.
    """

    reducers: tuple[Reducer, ...]

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        """Node ids of the parents: none for a fresh draft, two or more for a crossover, the one to go on from first.

        Args:
            rng: seeded by the run's seed and the ask index, so that a resumed run chooses as an uninterrupted one.
        """
        ...


class Termination(Protocol):
    """A rule that says when to stop asking."""

    def reason(self, graph: Graph, active_seconds: float) -> Finished | None:
        """Why to stop, in words for the user and with the figures behind them; None to go on.

        Args:
            active_seconds: how long the run has worked so far, without the pauses between openings.
        """
        ...
