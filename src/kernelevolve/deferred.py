"""Equipment that is made when it is first used, so that a run opens, and briefs are asked for, without a process.

In: an `Equip`. Out: another one, whose equipment stands in for what the first would give and asks it at the first
evaluation, tool or answer of the built-in engineer. Left to others: making the equipment (`equipment`), creating runs:
a new run is admitted before it begins, so `create_run` needs the equipment itself.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelevolve import plugins
from kernelevolve.candidate import Candidate
from kernelevolve.errors import MachineError, UsageError
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import Created
from kernelevolve.knowledge.library import open_library
from kernelevolve.propose import Draft, Translator
from kernelevolve.run import Equip, Equipment
from kernelevolve.tools import Report, Tools


def on_demand(equip: Equip) -> Equip:
    """An `Equip` that is quick to call; what `equip` gives is made once, by whatever needs it first, in a thread.

    What it would note in the log is not noted, and the best is not measured again: what it gives serves guests, and no
    `Run.drive`.
    """

    def later(created: Created, builds: Path) -> Equipment:
        made = _Late(equip, created, builds)
        figures = plugins.load("platforms", created.platform).figures
        names = plugins.names("platforms")
        targets = (created.platform, *(name for name in names if name != created.platform))
        return Equipment(
            _LateEvaluator(made), figures, _LateTranslator(made), open_library(), close=made.close,
            tools=_LateTools(made, targets),
        )  # fmt: skip

    return later


class _Late:
    """The equipment of one run once somebody needs it."""

    def __init__(self, equip: Equip, created: Created, builds: Path) -> None:
        self._equip, self._created, self._builds = equip, created, builds
        self._making, self._made, self._closed = threading.Lock(), list[Equipment](), False

    async def get(self) -> Equipment:
        """Made now if it is not yet; waited for where another one is making it."""
        return self._made[0] if self._made else await asyncio.to_thread(self._make)

    def _make(self) -> Equipment:
        with self._making:
            if self._closed:
                raise MachineError("the run was closed while its processes started; open it again")
            if not self._made:
                self._made.append(self._equip(self._created, self._builds))
            return self._made[0]

    def close(self) -> None:
        self._closed = True
        if self._made:
            self._made[0].close()


class _LateEvaluator:
    """See `run.Evaluator`."""

    def __init__(self, late: _Late) -> None:
        self._late = late

    async def evaluate(
        self, candidate: Candidate, *, progress: Callable[[str], None], keep: Callable[[bytes], str]
    ) -> Evaluation:
        progress("start")
        made = await self._late.get()
        return await made.evaluator.evaluate(candidate, progress=progress, keep=keep)


class _LateTools:
    """See `tools.Tools`."""

    def __init__(self, late: _Late, targets: tuple[str, ...]) -> None:
        self._late, self.targets = late, targets

    async def check(self, source: str) -> Report:
        return await (await self._tools()).check(source)

    async def compile(self, source: str, platforms: Sequence[str] = ()) -> Report:
        return await (await self._tools()).compile(source, platforms)

    async def interpret(self, source: str) -> Report:
        return await (await self._tools()).interpret(source)

    async def _tools(self) -> Tools:
        tools = (await self._late.get()).tools
        if tools is None:
            raise UsageError("this run's equipment has no tools; submit the source instead")
        return tools


class _LateTranslator:
    """See `propose.Translator`; it lists no families, since nothing prefers a move before the engineer is there."""

    families: tuple[str, ...] = ()

    def __init__(self, late: _Late) -> None:
        self._late = late

    async def first(self, seed: int) -> Draft:
        return await (await self._engineer()).first(seed)

    async def next(
        self, plan: Mapping[str, Any], limit: str, tried: Container[str], rng: random.Random, prefer: str = ""
    ) -> Draft | None:
        return await (await self._engineer()).next(plan, limit, tried, rng, prefer)

    def adopt(self, plan: Mapping[str, Any]) -> Draft | None:
        made = self._late._make().translator
        return made.adopt(plan) if made is not None else None

    async def cross(self, plan: Mapping[str, Any], other: Mapping[str, Any], tried: Container[str]) -> Draft | None:
        return await (await self._engineer()).cross(plan, other, tried)

    async def _engineer(self) -> Translator:
        made = (await self._late.get()).translator
        if made is None:
            raise UsageError("this run has no built-in engineer; answer the brief yourself")
        return made
