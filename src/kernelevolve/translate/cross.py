"""Crossover of two plans: the moves from one that bring it nearer to the other.

In: a program and two plans for it. Out: `Move` values, the one that takes over most first. Left to others: which plan
is the better one and stays as it is elsewhere (the writer), writing the plan (`render`).

Two parents that are one move each from a common ancestor give a child with both moves. Because every crossing is a
move, it is as legal as any other: nothing is spliced that the planner would not have made.
"""

from __future__ import annotations

from typing import Any

from kernelevolve.translate.ir import Program
from kernelevolve.translate.moves import Move, moves
from kernelevolve.translate.plan import Kernel, Plan

Traits = frozenset[tuple[Any, ...]]


def crossings(program: Program, plan: Plan, other: Plan) -> list[Move]:
    """The moves from `plan` after which it differs less from `other`, but not those that make it `other`."""
    wanted = traits(other)
    apart = len(traits(plan) ^ wanted)
    near = [(len(traits(move.plan) ^ wanted), move) for move in moves(program, plan, "unknown", frozenset())]
    return [move for left, move in sorted(near, key=lambda pair: pair[0]) if 0 < left < apart]


def traits(plan: Plan) -> Traits:
    """What tells a plan from another, one by one: each kernel's choices, and each knob's first value."""
    return frozenset(trait for kernel in plan.kernels for trait in _traits(kernel))


def _traits(kernel: Kernel) -> list[tuple[Any, ...]]:
    where = (kernel.kind, kernel.anchors, kernel.stores)
    choices: dict[str, Any] = {
        "scheme": kernel.scheme,
        "rows": kernel.rows,
        "persistent": kernel.persistent,
        "order": kernel.order,
        "warp_elements": kernel.warp_elements,
    }
    return [
        *((where, name, value) for name, value in choices.items()),
        *((where, "knob", name, values[0]) for name, values in kernel.knobs),
    ]
