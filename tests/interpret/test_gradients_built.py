"""What autograd launches is recorded and compiled too: a backward kernel is a candidate's own, like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernelevolve import Evaluation, Run, Verdict, Workshop, create_run, settings_for
from kernelevolve.problem import parse_problem

REFERENCE = """
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x) * 3.0


def get_inputs():
    return [torch.randn(64, 1000)]


def get_init_inputs():
    return []
"""
CANDIDATE = """
import torch
import triton
import triton.language as tl

KNOBS = {{"BLOCK": [1024]}}
CHOICE = {{}}
CHOICES = {{}}


@triton.jit
def forward_kernel(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, other=0.0)
    tl.store(y + at, tl.maximum(v, 0.0) * 3.0, at < n)


@triton.jit
def backward_kernel(x, dy, dx, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n, other=0.0)
    d = tl.load(dy + at, at < n, other=0.0)
    tl.store(dx + at, {gradient}, at < n)


class Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.empty_like(x)
        forward_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        dy, dx = dy.contiguous(), torch.empty_like(x)
        {before}
        backward_kernel[(triton.cdiv(x.numel(), 1024),)](x, dy, dx, x.numel(), BLOCK=1024)
        return dx


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return Relu.apply(x.contiguous())
"""


def candidate(gradient: str = "tl.where(v > 0, d * 3.0, 0.0)", before: str = "pass") -> str:
    return CANDIDATE.format(gradient=gradient, before=before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("gradients")
    problem = parse_problem(REFERENCE, 'direction = "both"', name="relu", suite="folder", path="relu.py")
    settings = replace(settings_for("quick"), last_rung="build", candidates=50)
    shop = Workshop(problem, device="none")
    with create_run(Path(folder) / "run", problem, "h100", shop, settings=settings) as made:
        yield made
    shop.close()


def judged(run: Run, source: str) -> Evaluation:
    return asyncio.run(run.submit(run.ask().id, source, "")).evaluation


def said(evaluation: Evaluation, rung: str) -> str:
    return next(r.message for r in evaluation.rungs if r.rung == rung)


def test_an_honest_candidate_has_its_backward_kernel_built(run: Run) -> None:
    found = judged(run, candidate())
    assert found.verdict is Verdict.UNJUDGED, found.rungs[-1].message
    assert said(found, "plan") == "1 launch for 1 workload, 2 with gradients"
    assert "forward_kernel" in said(found, "build") and "backward_kernel" in said(found, "build")


def test_a_backward_kernel_that_does_not_compile_is_told_at_the_build_rung(run: Run) -> None:
    found = judged(run, candidate("tl.nothing_of_the_sort(v) * d"))
    assert found.verdict is Verdict.COMPILE_ERROR and found.rungs[-1].rung == "build"
    assert "nothing_of_the_sort" in found.rungs[-1].message


def test_what_cannot_be_recorded_without_data_is_said_and_left_to_the_device(run: Run) -> None:
    found = judged(run, candidate(before="assert float(dy.sum()) == float(dy.sum())"))
    assert found.verdict is Verdict.UNJUDGED
    assert "what autograd launches is not recorded" in said(found, "plan")
