"""Copies that a candidate may take beside its kernels: allowed, written down and counted, and no way to do the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from court import Court
from planned import opened_for, packed, recorded

from kernelevolve.evaluate.traffic import works
from kernelevolve.evaluation import LaunchPlan, Verdict
from kernelevolve.packed import PackedCopy
from kernelevolve.platforms.cost import plan_works
from kernelevolve.platforms.nvidia import H200
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case
from kernelevolve.worker.plan import record_plan

TURNED = """
import torch
import torch.nn as nn

ROWS, WIDTH = 72, 56


class Model(nn.Module):
    def forward(self, x):
        return x + 1.0


def get_inputs():
    return [torch.randn(WIDTH, ROWS).t()]
"""
HEAD = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def plus(x, out, count, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < count) + STEP, mask=i < count)


def compute(x, step=1.0):
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    plus[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), STEP=step, BLOCK=1024)
    return out


class ModelNew(nn.Module):
    def forward(self, x):
"""
BYTES = 72 * 56 * 4
HONEST = {
    "contiguous": "return compute(x.contiguous())",
    "clone": "return compute(torch.clone(x, memory_format=torch.contiguous_format))",
    "to": "return compute(torch.ops.aten._to_copy(x, memory_format=torch.contiguous_format))",
    "reshape": "return compute(x.reshape(-1)).view(x.shape)",
    "a buffer of its own": "held = torch.empty(x.shape, dtype=x.dtype, device=x.device)\n"
    "        held.copy_(x)\n        return compute(held)",
    "the result copied out": "out = compute(x.contiguous())\n        return out.clone()",
}
WORK = {  # the whole work, or a part of it, by copies, with a launch for show
    "laid out as the result": "compute(x)\n        return x.contiguous()",
    "through memory of its own": "held = x.contiguous()\n        compute(held)\n        return held.clone()",
    "through two": "held = torch.empty_like(x).copy_(x.contiguous())\n        compute(held)\n"
    "        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)\n        out.copy_(held)\n        return out",
    "a view of it": "compute(x)\n        return x.contiguous().view(-1).view(x.shape)",
    "part by part": "out = compute(x.contiguous())\n        out[:8].copy_(out[8:16])\n        return out",
    "repeated": "out = compute(x.contiguous())\n        out.copy_(out[0].expand(x.shape))\n        return out",
    "rounded": "return compute(x.contiguous().to(torch.bfloat16).to(torch.float32))",
    "rounded by a copy": "held = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device).copy_(x)\n"
    "        return compute(held).float()",
}


def forward(body: str) -> str:
    return f"{HEAD}        {body}\n"


@pytest.fixture(scope="module")
def court() -> Court:
    return Court(parse_problem(TURNED, None, name="turned", suite="test", path="turned.py"))


@pytest.mark.parametrize("name", HONEST)
def test_a_copy_for_kernels_to_read_is_allowed_and_a_copy_of_a_result(court: Court, name: str, tmp_path: Path) -> None:
    verdict, found = court.verdict(forward(HONEST[name]), (Case(1), Case(2, "D1")))
    assert verdict.ok, found
    recording, _, _ = recorded(opened_for(TURNED), forward(HONEST[name]), tmp_path)
    assert recording.forbidden == []


@pytest.mark.parametrize("name", WORK)
def test_a_copy_does_no_work(court: Court, name: str, tmp_path: Path) -> None:
    verdict, found = court.verdict(forward(WORK[name]), (Case(1),))
    assert verdict is Verdict.POLICY, f"{verdict}: {found}"
    recording, _, _ = recorded(opened_for(TURNED), forward(WORK[name]), tmp_path)
    assert recording.forbidden and recording.forbidden[0].startswith("aten.")


def test_a_transposition_is_for_a_kernel_to_do() -> None:
    problem = TURNED.replace("x + 1.0", "x.contiguous()")
    court = Court(parse_problem(problem, None, name="turned", suite="test", path="turned.py"))
    for body in ("compute(x.contiguous(), 0.0)\n        return x.contiguous()", "return compute(x, 0.0).copy_(x)"):
        verdict, found = court.verdict(forward(body), (Case(1, "D1"),))
        assert (verdict, "lay out what it returns" in found) == (Verdict.POLICY, True)


def plan_of(body: str, folder: Path) -> LaunchPlan:
    _, model, inputs = recorded(opened_for(TURNED), forward(body), folder)
    plan, _ = record_plan(
        model, (inputs, {}), workload="declared", platform=H200.name, target=H200.target,
        answers=H200.device_answers(), device_index=77,
    )  # fmt: skip
    return plan


def test_copies_are_in_the_plan_and_their_bytes_in_the_modelled_time(tmp_path: Path) -> None:
    plan = plan_of(HONEST["the result copied out"], tmp_path)
    names = {b.name: b.role for b in plan.buffers}
    first, second = plan.copies
    assert (first.source, names[first.target], first.bytes_read, first.bytes_written) == (
        "input0", "scratch", BYTES, BYTES,
    )  # fmt: skip
    assert names[second.target] == "output" and names[second.source] == "scratch"
    (launch,) = plan.launches
    assert launch.arguments["x"] == f"buffer {first.target}+0"
    for moved in (plan_works(plan), works(forward(HONEST["the result copied out"]), plan, {}, [])):
        copies = [w for w in moved if not w.compiled]
        assert [w.name for w in copies] == [f"copy {c.source} to {c.target}" for c in plan.copies]
        assert sum(w.bytes_read + w.bytes_written for w in copies) == 4 * BYTES
    assert plan_of("return compute(x)", tmp_path).copies == ()
    spread = plan_of("held = torch.empty_like(x).copy_(x[:1].expand(x.shape))\n        return compute(held)", tmp_path)
    assert [(c.bytes_read, c.bytes_written) for c in spread.copies] == [(56 * 4, BYTES)]


@pytest.mark.parametrize("name", ["contiguous", "reshape", "the result copied out"])
def test_the_plan_lane_carries_copies_out(name: str, tmp_path: Path) -> None:
    plan, _ = packed(opened_for(TURNED), forward(HONEST[name]), tmp_path)
    copies = [s for s in plan.steps if isinstance(s, PackedCopy)]
    assert len(copies) == (2 if "out" in name else 1)
    assert (copies[0].source.store, copies[0].source.stride) == ("input0", (1, 72))
    roles = {s.name: s.role for s in plan.stores}
    assert roles[copies[0].target.store] == "scratch" and copies[0].target.stride == (56, 1)


