"""Best of N: fresh drafts and nothing else, the control arm that every search has to beat.

In: the graph. Out: no parents, ever. Left to others: how many drafts are enough (the run's termination).
"""

from __future__ import annotations

import random

from kernelevolve.graph import Graph, Reducer


class BestOfN:
    """Each child is a fresh draft that knows nothing of the others; the best of them is the result."""

    reducers: tuple[Reducer, ...] = ()

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        """See `Policy.select`."""
        return ()
