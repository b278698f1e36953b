"""Crossover of plans: the child has what both parents changed, and can be written."""

from __future__ import annotations

import asyncio
import json
from functools import cache

from kernelevolve.engineer import Engineer
from kernelevolve.evaluate.check import check_source
from kernelevolve.platforms.nvidia import H200
from kernelevolve.problem import parse_problem
from kernelevolve.propose.builtin import plan_key
from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.cross import crossings, traits
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.ir import Program
from kernelevolve.translate.moves import Move, moves
from kernelevolve.translate.plan import Plan

REFERENCE = """import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x, w):
        return torch.softmax(x @ w, dim=-1)


def get_inputs():
    return [torch.rand(512, 256), torch.rand(256, 384)]


def get_init_inputs():
    return []
"""


@cache
def program() -> Program:
    return capture_source(REFERENCE)


@cache
def offered() -> tuple[Plan, tuple[Move, ...]]:
    plan = first_plan(program(), "h200")
    return plan, tuple(moves(program(), plan, "unknown", frozenset()))


def test_two_plans_one_move_from_a_common_one_give_the_plan_with_both_moves() -> None:
    plan, options = offered()
    made = 0
    for one in options:
        for other in options:
            both = [
                child.plan
                for child in crossings(program(), one.plan, other.plan)
                if traits(one.plan) - traits(plan) <= traits(child.plan)
                and traits(other.plan) - traits(plan) <= traits(child.plan)
            ]
            made += bool(both)
            assert all(child not in (one.plan, other.plan, plan) for child in both)
    assert made >= len(options), f"{made} of {len(options) ** 2} pairs combine"


def test_every_crossing_is_nearer_to_the_other_and_none_is_the_other() -> None:
    _, options = offered()
    for one in options[:6]:
        for other in options[-6:]:
            wanted = traits(other.plan)
            apart = [len(traits(child.plan) ^ wanted) for child in crossings(program(), one.plan, other.plan)]
            assert apart == sorted(apart) and all(0 < left < len(traits(one.plan) ^ wanted) for left in apart)


def test_the_engineer_writes_a_crossover_and_says_when_nothing_is_left() -> None:
    _, options = offered()
    problem = parse_problem(REFERENCE, None, name="softmax_product", suite="folder", path="softmax_product.py")
    engineer = Engineer(problem, H200, lambda workload: program())
    pairs = [(a, b) for a in options for b in options if crossings(program(), a.plan, b.plan)]
    one, other = (json.loads(move.plan.to_json()) for move in pairs[0])
    tried: set[str] = set()
    while (draft := asyncio.run(engineer.cross(one, other, tried))) is not None:
        assert plan_key(draft.plan) not in tried
        assert check_source(draft.source).verdict is None
        tried.add(plan_key(draft.plan))
    assert 1 <= len(tried) <= len(options)
    assert asyncio.run(engineer.cross(one, one, frozenset())) is None
