"""What the built-in engineer can reach for a problem: places and steps, breadth first from its first kernel.

In: a captured program, a platform. Out: places with their plans, the sources that they are written as. Left to others:
evaluating them (`record`).

Moves do not depend on what was measured, only their order does; so all of it is known before anything is evaluated.
Fresh drafts are random walks along the same moves, and a crossover makes one of them: both stay in the landscape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kernelevolve.race.landscape import Place, Step, without_docstrings
from kernelevolve.translate import errors
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.ir import Program
from kernelevolve.translate.moves import moves
from kernelevolve.translate.plan import Plan
from kernelevolve.translate.render import render


@dataclass(frozen=True)
class Reached:
    """What can be reached.

    Attributes:
        sources: of the candidates, by number; none twice.
        more: whether the engineer could have gone on.
    """

    places: tuple[Place, ...]
    sources: tuple[str, ...]
    more: bool


def reach(program: Program, platform: str, reference: str, *, allow_tf32: bool, most: int) -> Reached:
    """The places that lie nearest to the first kernel, written as `most` different sources or fewer.

    Raises:
        UncoveredOp, TranslateError: of `translate`, where there is no first kernel.
    """
    first = first_plan(program, platform, allow_tf32=allow_tf32)
    numbers: dict[str, int] = {}  # by the plan's own key; -1 for one that cannot be written
    sources: dict[str, int] = {}
    plans: list[Plan] = []
    places: list[Place] = []
    more = False

    def number(plan: Plan) -> int:
        nonlocal more
        key = plan.key()
        if key not in numbers:
            try:
                source = render(program, plan, reference_source=reference)
            except errors.TranslateError:
                if not plans:
                    raise
                numbers[key] = -1
                return -1
            if source not in sources and len(sources) == most:
                more = True
                return -1
            numbers[key] = len(plans)
            plans.append(plan)
            places.append(Place(_data(plan), sources.setdefault(source, len(sources))))
        return numbers[key]

    number(first)
    at = 0
    while at < len(plans):
        led = [(move, number(move.plan)) for move in moves(program, plans[at], "", frozenset())]
        steps = tuple(Step(move.name, move.helps, to) for move, to in led if to >= 0)
        places[at] = replace(places[at], steps=steps)
        at += 1
    return Reached(tuple(places), tuple(sources), more)


def _data(plan: Plan) -> Mapping[str, Any]:
    return without_docstrings(json.loads(plan.to_json()))
