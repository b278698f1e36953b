"""Which outputs share an input's memory is part of the contract: as declared, or as the reference does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from kernelevolve import plugins
from kernelevolve.candidate import Candidate
from kernelevolve.engineer import Engineer
from kernelevolve.equipment import Workshop
from kernelevolve.errors import ProblemError
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluation import Evaluation, Verdict
from kernelevolve.judge.answers import describe_problem
from kernelevolve.problem import Problem, parse_problem
from kernelevolve.settings import settings_for

REFERENCE = """
import torch

SIZE = 4096


class Model(torch.nn.Module):
    def forward(self, x, y):
        x.add_(y)
        return x, y.clone()


def get_inputs():
    return [torch.rand(SIZE), torch.rand(SIZE)]
"""
CANDIDATE = """
import torch
import triton
import triton.language as tl


@triton.jit
def add_and_copy(x, y, total, copy, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    b = tl.load(y + i, mask=inside)
    a = tl.load(x + i, mask=inside) + b
    tl.store(x + i, a, mask=inside)
    tl.store(total + i, a, mask=inside)
    tl.store(copy + i, b, mask=inside)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        total, copy = x, torch.empty_like(y)
        add_and_copy[(triton.cdiv(x.numel(), 512),)](x, y, total, copy, x.numel(), BLOCK=512)
        return total, copy
"""
APART = CANDIDATE.replace(
    "total, copy = x, torch.empty_like(y)", "total, copy = torch.empty_like(x), torch.empty_like(y)"
)
VIEW = CANDIDATE.replace("return total, copy", "return total, y.view(-1)")


@pytest.fixture(scope="module")
def problem() -> Problem:
    return parse_problem(REFERENCE, 'aliases = [[0, "x"]]', name="add", suite="folder", path="add.py")


@pytest.fixture(scope="module")
def ladder(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    workshop = Workshop(problem, device="none")
    platform = plugins.load("platforms", "h100")
    costs = Engineer(problem, platform, workshop.program)
    made = Ladder(workshop.bench(tmp_path_factory.mktemp("builds")), platform, settings_for("quick"), costs, seed=0)
    yield made
    made.builder.close()
    workshop.close()


def climb(ladder: Ladder, source: str) -> Evaluation:
    return ladder.climb(Candidate("n0", "b0", "guest", source), lambda rung: None, lambda artefact: "")


def test_an_output_in_the_memory_of_its_input_is_right_where_the_reference_does_so(ladder: Ladder) -> None:
    found = climb(ladder, CANDIDATE)
    assert found.verdict is Verdict.OK_UNTIMED, found.rungs[-1].message


def test_a_declared_alias_must_be_one(ladder: Ladder) -> None:
    found = climb(ladder, APART)
    assert found.verdict is Verdict.WRONG_META
    assert "out[0] must share the memory of input 'x'" in found.rungs[-1].message


def test_an_alias_that_nobody_declared_is_wrong(ladder: Ladder) -> None:
    found = climb(ladder, VIEW)
    assert found.verdict is Verdict.WRONG_META
    assert "out[1] shares the memory of input 'y'" in found.rungs[-1].message


def test_the_reference_is_read_for_what_it_shares(problem: Problem) -> None:
    for description in describe_problem(problem):
        assert [o.shares for o in description.outputs] == [("x",), ()]
    for aliases in (((2, "x"),), ((0, "z"),), ((-1, "x"),)):
        with pytest.raises(ProblemError, match=r"forward has 2 outputs, counted from 0, and these tensor inputs: x, y"):
            describe_problem(replace(problem, aliases=aliases))
