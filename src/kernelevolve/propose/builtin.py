"""The built-in writer: no network, no key, deterministic by seed.

In: a brief with its diagnosis. Out: the translator's first kernel, or the kernel one structural move away from a
parent; from several parents the first one with a move that brings it nearer to another, and where there is none, a move
from one of them. Left to others: which moves exist and how a plan becomes source (the translator, handed in by the
run).

A plan that was tried anywhere in the run does not come again. When nothing is left from a parent, NoMovesLeft says so,
and the policy takes another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Brief, Cost
from kernelevolve.errors import NoMovesLeft, UsageError, WriterError
from kernelevolve.events import Event, Written
from kernelevolve.graph import Graph
from kernelevolve.propose import Answer, Draft, Workbench
from kernelevolve.propose.warm import WARM

#: Fresh drafts that are drawn until one was not tried before. After so many the engineer says that it has no other:
#: what is left is then, at 95 %, less than a tenth of what it draws (0.9^32 = 3 %).
FRESH_SEEDS = 32


def plan_key(plan: Mapping[str, Any]) -> str:
    """Sixteen hex digits that identify a plan by its content."""
    return hashlib.sha256(codec.dumps(plan).encode()).hexdigest()[:16]


class PlansReducer:
    """The keys of all plans that were written in the run."""

    name = "built-in.plans"

    def start(self) -> set[str]:
        return set()

    def fold(self, state: set[str], event: Event, graph: Graph) -> set[str]:
        if isinstance(event, Written) and event.candidate.plan:
            state.add(plan_key(event.candidate.plan))
        return state

    def save(self, state: set[str], graph: Graph) -> Any:
        """See `Restorable.save`."""
        return sorted(state)

    def restore(self, data: Any, graph: Graph) -> set[str]:
        """See `Restorable.restore`."""
        return set(data)


class BuiltinWriter:
    """Answers briefs with the translator's kernels.

    Args:
        workbench: must have a translator.
    """

    name = "built-in"

    def __init__(self, workbench: Workbench) -> None:
        if workbench.translator is None:
            raise UsageError("the built-in writer needs a translator; configure another writer")
        self._translator = workbench.translator
        self._seed = workbench.seed
        self._turns: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        # What was answered, but may not be in the log yet: writers work side by side. The control's are apart.
        self._answered: dict[bool, dict[str, str]] = {}
        self.reducers = (PlansReducer(),)
        self.moves = tuple(getattr(self._translator, "families", ()))

    async def write(self, brief: Brief, graph: Graph) -> Answer:
        """See `Writer.write`."""
        start = time.monotonic()
        async with self._turn():
            apart = self._answered.setdefault(brief.control, {})
            others = {key for name, key in apart.items() if name != brief.id}
            tried = graph.reduced(PlansReducer.name) | others
            rng = random.Random(f"{self._seed}:{brief.index}:write")
            draft = await (self._next if brief.parents else self._first)(brief, graph, tried, rng)
            # What the next move starts from must not depend on whether the run was reopened in between.
            draft = replace(draft, plan=json.loads(codec.dumps(draft.plan)))
            apart[brief.id] = plan_key(draft.plan)
        cost = Cost(seconds=time.monotonic() - start)
        return Answer(draft.source, draft.note, draft.plan, cost, draft.move)

    def _turn(self) -> asyncio.Lock:
        """One lock per event loop: a run may be driven again in another loop, and a lock belongs to one."""
        loop = asyncio.get_running_loop()
        if self._turns is None or self._turns[0] is not loop:
            self._turns = (loop, asyncio.Lock())
        return self._turns[1]

    async def _first(self, brief: Brief, graph: Graph, tried: set[str], rng: random.Random) -> Draft:
        # After a warm start the plainest kernel may not have been written yet.
        warm = any(note.topic == WARM for note in graph.notes)
        seeds = [0] if brief.index == 0 or warm else []
        seeds += [rng.getrandbits(31) for _ in range(FRESH_SEEDS - len(seeds))]
        for seed in seeds:
            draft = await self._translator.first(seed)
            if plan_key(draft.plan) not in tried:
                return draft
        raise NoMovesLeft("the built-in engineer has no other first kernel for this problem")

    async def _next(self, brief: Brief, graph: Graph, tried: set[str], rng: random.Random) -> Draft:
        limit = str(brief.move.get("limit", "unknown"))
        plans = [(p, graph.nodes[p].candidate.plan) for p in brief.parents if graph.nodes[p].candidate.plan]
        if not plans:
            raise NoMovesLeft(
                f"the built-in engineer goes on from its own plans only, and {', '.join(brief.parents)} has none"
            )
        for other, plan in plans[1:]:
            draft = await self._translator.cross(plans[0][1], plan, tried)
            if draft is not None:
                note = f"{plans[0][0]} with {other}'s {draft.note}"
                return _new(replace(draft, note=note, move="crossover"), tried)
        preferred = str(brief.move.get("prefer", ""))
        steered = {"prefer": preferred} if preferred in self.moves else {}
        for _, plan in plans:
            draft = await self._translator.next(plan, limit, tried, rng, **steered)
            if draft is not None:
                return _new(draft, tried)
        raise NoMovesLeft(f"no move is left from {', '.join(name for name, _ in plans)}")


def _new(draft: Draft, tried: set[str]) -> Draft:
    """`draft`, which is not in `tried`."""
    if plan_key(draft.plan) in tried:
        raise WriterError(
            f"the translator repeated plan {plan_key(draft.plan)} ({draft.note}); a plan in `tried` must not come again"
        )
    return draft
