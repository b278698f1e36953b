"""A plan of another run: written anew for a reference of the same family, refused where it does not fit."""

from __future__ import annotations

import contextlib
import io
import json
from functools import cache

import pytest

from kernelevolve import plugins
from kernelevolve.engineer import Engineer
from kernelevolve.problem import Problem, Workload
from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.ir import Program
from kernelevolve.translate.plan import Plan

SOURCE = """import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x, y):
        return {expression}


def get_inputs():
    return [torch.randn{x}, torch.randn{y}]


def get_init_inputs():
    return []
"""
SOFTMAX, PRODUCT = "torch.softmax(x * 2.0, dim=-1) + y", "torch.relu(x @ y)"


@cache
def captured(source: str) -> Program:
    with contextlib.redirect_stderr(io.StringIO()):
        return capture_source(source)


def engineer(expression: str, x: tuple[int, ...], y: tuple[int, ...], platform: str = "h100") -> Engineer:
    source = SOURCE.format(expression=expression, x=x, y=y)
    problem = Problem("made", "folder", "made.py", source, workloads=(Workload("declared"),))
    return Engineer(problem, plugins.load("platforms", platform), lambda workload: captured(source))


@pytest.mark.parametrize(
    ("expression", "here", "there"),
    [
        (SOFTMAX, ((64, 512), (512,)), ((16, 8192), (8192,))),
        (PRODUCT, ((256, 128), (128, 512)), ((1024, 512), (512, 256))),
    ],
)
def test_a_plan_is_written_anew_for_other_sizes_and_goes_on_from_there(expression, here, there) -> None:
    old, new = engineer(expression, *here), engineer(expression, *there)
    draft = old._next(old._first(0).plan, "bandwidth", (), "")
    assert draft is not None
    adopted = new.adopt(draft.plan)
    assert adopted is not None and "class ModelNew" in adopted.source
    assert adopted.plan["kernels"][0]["scheme"] == draft.plan["kernels"][0]["scheme"]
    assert new._next(adopted.plan, "bandwidth", (), "") is not None
    again = old.adopt(draft.plan)
    assert again is not None and again.plan == draft.plan and again.source == draft.source


def test_index_arithmetic_becomes_as_wide_as_the_new_sizes_ask_for() -> None:
    old, new = engineer(SOFTMAX, (64, 512), (512,)), engineer(SOFTMAX, (1 << 20, 2048), (2048,))
    adopted = new.adopt(old._first(0).plan)
    assert adopted is not None
    assert not any(kernel["wide"] for kernel in old._first(0).plan["kernels"])
    assert all(kernel["wide"] for kernel in adopted.plan["kernels"])


def test_a_plan_that_does_not_fit_is_refused() -> None:
    softmax, product = engineer(SOFTMAX, (64, 512), (512,)), engineer(PRODUCT, (256, 128), (128, 512))
    plan = json.loads(Plan.from_json(json.dumps(softmax._first(0).plan)).to_json())
    assert product.adopt(plan) is None
    assert engineer(SOFTMAX, (64, 512), (512,), "mi300x").adopt(plan) is None
    assert softmax.adopt({"path": [1]}) is None and softmax.adopt({}) is None
    for kernel in ({**plan["kernels"][0], "of_the_future": 1}, {**plan["kernels"][0], "stores": []},
                   {**plan["kernels"][0], "kind": "scan"}):  # fmt: skip
        assert softmax.adopt({**plan, "kernels": [kernel]}) is None
