"""Proposing: from parents to the next candidate's source.

In: the graph and the parents that the policy selected. Out: a brief, and a writer's answer to it. Left to others:
choosing parents (`search`), numbering and logging (`run`), judging (`evaluate`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kernelevolve.candidate import Brief, Cost
from kernelevolve.graph import Graph, Reducer
from kernelevolve.hardware import HardwareFigures
from kernelevolve.knowledge.library import Library
from kernelevolve.llm.ledger import Ledger
from kernelevolve.problem import Problem
from kernelevolve.tools import Tools


@dataclass(frozen=True)
class Answer:
    """What a writer gives back for a brief; the run makes a Candidate of it.

    Attributes:
        source: the kernel file.
        note: one sentence: what was changed and why.
        plan: the built-in writer's plan as JSON data; empty for other writers.
        move: the family of the move that was made, if there is one.
        origin, session: see `Candidate`.
    """

    source: str
    note: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    move: str = ""
    origin: str = ""
    session: str = ""


@dataclass(frozen=True)
class Draft:
    """What the translator gives: a kernel file, the plan that it was written from (JSON data), one sentence, and the
    family of the move that was made, where there was one."""

    source: str
    plan: Mapping[str, Any]
    note: str
    move: str = ""


class Translator(Protocol):
    """The built-in engineer for one problem and platform. All methods are deterministic in their arguments.

    Attributes:
        families: of moves that `next` can be told to prefer.
    """

    families: tuple[str, ...]

    async def first(self, seed: int) -> Draft:
        """A first kernel; other seeds may give other plans, seed 0 is the plainest.

        Raises:
            UncoveredOp: the reference uses an op that cannot be written.
        """
        ...

    async def next(
        self, plan: Mapping[str, Any], limit: str, tried: Container[str], rng: random.Random, prefer: str = ""
    ) -> Draft | None:
        """The kernel of the most promising plan that is one move away from `plan`; None when no move is left.

        Args:
            limit: what limits the kernel of `plan`, one of `diagnose.LIMITS`.
            tried: keys (`plan_key`) of plans that must not come again.
            prefer: a family whose moves come before all others.
        """
        ...

    def adopt(self, plan: Mapping[str, Any]) -> Draft | None:
        """The kernel of a plan that was made for the same problem, or one of its family, in another run; None where
        it does not fit this problem."""
        ...

    async def cross(self, plan: Mapping[str, Any], other: Mapping[str, Any], tried: Container[str]) -> Draft | None:
        """The kernel of `plan` with what brings it nearest to `other`; None where nothing of it can be taken over.

        Args:
            plan: the better parent's, which stays as it is elsewhere.
            other: another parent's.
            tried: as in `next`.
        """
        ...


@dataclass(frozen=True)
class Workbench:
    """What a writer is built with, beside its own arguments: `Class(workbench, **args)`.

    Attributes:
        platform: name of the objective platform.
        seed: of the run.
        translator: None where there is no built-in engineer.
        tools: None where nothing can be tried out.
        library: what is known before the run; None where nothing is.
        ledger: of the run's money and tokens: a writer that calls a model reserves there; None for no limit.
        keep: stores a blob and gives its reference; None where nothing is kept.
    """

    problem: Problem
    platform: str
    seed: int
    figures: HardwareFigures | None = None
    translator: Translator | None = None
    tools: Tools | None = None
    library: Library | None = None
    ledger: Ledger | None = None
    keep: Callable[[bytes], str] | None = None


class Writer(Protocol):
    """Answers briefs. Several `write` calls may wait at the same time.

    Attributes:
        name: as recorded with each candidate: `built-in`, `model:PROVIDER:NAME`.
        reducers: what the writer needs of the log at scale.

    A writer may have `moves` too: names of families of moves that a brief may tell it to prefer
    (`brief.move["prefer"]`). Each is an arm of its own for a bandit, beside the writer's own choice.
    """

    name: str
    reducers: tuple[Reducer, ...]

    async def write(self, brief: Brief, graph: Graph) -> Answer:
        """The answer to `brief`; the same again for the same brief and log, as far as the writer can.

        Raises:
            WriterError: no answer; the brief is dropped with this reason.
            NoMovesLeft: nothing is left to try from the brief's parents.
            MachineError: the machine's fault; asked again.
        """
        ...
