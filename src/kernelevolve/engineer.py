"""The built-in engineer of one run: translator for the writer, and costs for the modelled time.

In: a problem, a platform, the captured program. Out: drafts, and the bytes and FLOPs of candidates and baselines. Left
to others: capturing (in a sealed process), planning and writing (`translate`), choosing parents, judging.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kernelevolve.candidate import Candidate, Choice
from kernelevolve.errors import ProblemError, UncoveredOp
from kernelevolve.evaluate.traffic import works
from kernelevolve.evaluation import LaunchPlan
from kernelevolve.platforms import Platform
from kernelevolve.platforms.cost import Work
from kernelevolve.problem import Problem
from kernelevolve.propose import Draft
from kernelevolve.propose.builtin import plan_key
from kernelevolve.propose.walk import random_moves
from kernelevolve.translate import baseline, errors
from kernelevolve.translate.baseline import OpWork
from kernelevolve.translate.cross import crossings
from kernelevolve.translate.first import first_plan, resized
from kernelevolve.translate.ir import Program
from kernelevolve.translate.moves import FAMILIES, Move, moves
from kernelevolve.translate.plan import Plan
from kernelevolve.translate.render import render

Programs = Callable[[str], Program]


class Engineer:
    """Writes kernels from the captured program by plan and move; see `propose.Translator` and `evaluate.ladder.Costs`.

    Args:
        program: gives the captured program of a workload; the first workload's is what kernels are written from.
    """

    families = FAMILIES

    def __init__(self, problem: Problem, platform: Platform, program: Programs) -> None:
        self.problem, self.platform, self._program = problem, platform, program

    @property
    def program(self) -> Program:
        """What kernels are written from."""
        return self._program(self.problem.workloads[0].name)

    async def first(self, seed: int) -> Draft:
        """See `Translator.first`: the planner's best guess for seed 0, random moves away from it for others."""
        return await asyncio.to_thread(self._first, seed)

    def _first(self, seed: int) -> Draft:
        with_tf32 = self.problem.precision == "tf32"
        try:
            plan = first_plan(self.program, self.platform.name, allow_tf32=with_tf32)
        except errors.UncoveredOp as error:
            raise UncoveredOp(error.op, f"{self.problem.path}, {error.line}") from error
        except errors.TranslateError as error:
            raise ProblemError(f"{self.problem.path}: {error}") from error
        made = random_moves(seed, plan, lambda at: moves(self.program, at, "unknown", frozenset()), self._after)
        names = ", then ".join(("the planner's first choice", *(move.name for move in made)))
        return self._draft(made[-1].plan if made else plan, names)

    def _after(self, move: Move) -> Plan | None:
        """Where a move leads; None where the plan cannot be written."""
        try:
            render(self.program, move.plan, reference_source=self.problem.source)
        except errors.TranslateError:
            return None
        return move.plan

    async def next(
        self, plan: Mapping[str, Any], limit: str, tried: Container[str], rng: random.Random, prefer: str = ""
    ) -> Draft | None:
        """See `Translator.next`."""
        return await asyncio.to_thread(self._next, plan, limit, tried, prefer)

    async def cross(self, plan: Mapping[str, Any], other: Mapping[str, Any], tried: Container[str]) -> Draft | None:
        """See `Translator.cross`."""
        return await asyncio.to_thread(self._cross, plan, other, tried)

    def adopt(self, plan: Mapping[str, Any]) -> Draft | None:
        """See `Translator.adopt`."""
        try:
            made = Plan.from_json(json.dumps(plan))
            mine = resized(self.program, made) if made.platform == self.platform.name else None
            return self._draft(mine, "a plan of another run") if mine is not None else None
        except (errors.TranslateError, KeyError, TypeError):
            return None  # of another version, or for another reference of the same ops

    def _cross(self, data: Mapping[str, Any], other: Mapping[str, Any], tried: Container[str]) -> Draft | None:
        plan, wanted = (Plan.from_json(json.dumps(text)) for text in (data, other))
        return self._first_new(crossings(self.program, plan, wanted), tried)

    def _next(self, data: Mapping[str, Any], limit: str, tried: Container[str], prefer: str) -> Draft | None:
        plan = Plan.from_json(json.dumps(data))
        return self._first_new(moves(self.program, plan, limit, frozenset(), prefer), tried)

    def _first_new(self, options: Sequence[Move], tried: Container[str]) -> Draft | None:
        for move in options:
            if plan_key(self._data(move.plan)) not in tried:
                try:
                    return replace(self._draft(move.plan, f"{move.name}: {move.reason}"), move=move.family)
                except errors.TranslateError:
                    continue  # a plan that cannot be written is no move; the next one may be
        return None

    @staticmethod
    def _data(plan: Plan) -> Mapping[str, Any]:
        data: Mapping[str, Any] = json.loads(plan.to_json())
        return data

    def _draft(self, plan: Plan, note: str) -> Draft:
        source = render(self.program, plan, reference_source=self.problem.source)
        return Draft(source, self._data(plan), note)

    def candidate(self, candidate: Candidate, plan: LaunchPlan, choice: Mapping[str, Choice]) -> Sequence[Work]:
        """See `Costs.candidate`."""
        program = self._program(plan.workload)
        products = [w.flops for w in baseline.eager(program, program.at_full_size()) if w.library]
        return works(candidate.source, plan, choice, products)

    def baselines(self, workload: str) -> Mapping[str, Sequence[Work]]:
        """See `Costs.baselines`; `compile-max-autotune` is modelled as `compile`."""
        program = self._program(workload)
        sizes = program.at_full_size()
        both = {"eager": baseline.eager(program, sizes), "compile": baseline.compiled(program, sizes)}
        with_tf32 = self.problem.precision == "tf32"
        return {
            name: [_work(w, with_tf32) for w in both[name.removesuffix("-max-autotune")]]
            for name in self.problem.baselines
        }

    def least(self, workload: str) -> Sequence[Work]:
        """See `Costs.least`. Schemes of several narrower products may be faster than fp32 units and are allowed."""
        program = self._program(workload)
        work = baseline.least(program, program.at_full_size())
        same = {"fp32": ("fp32", "tf32x3", "bf16x3", *(["tf32"] if self.problem.precision == "tf32" else []))}
        return [
            Work(work.name, work.bytes_read, work.bytes_written, {arithmetic: work.flops} if work.flops else {})
            for arithmetic in same.get(work.arithmetic, (work.arithmetic,))
        ]


def _work(work: OpWork, with_tf32: bool) -> Work:
    # Where a problem allows tf32, PyTorch's own products are allowed it too.
    flops = {"tf32" if with_tf32 and work.library and work.arithmetic == "fp32" else work.arithmetic: work.flops}
    if work.library:
        return Work(work.name, work.bytes_read, work.bytes_written, flops, maker="library")
    return Work(work.name, work.bytes_read, work.bytes_written, flops)
