"""Tools: what a writer or guest may ask about a source before it is submitted, through a run's public door."""

from __future__ import annotations

import asyncio

import pytest

import kernelevolve as ke

PROBLEM = '''
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1.0

def get_inputs():
    return [torch.randn(64, 512)]

def get_init_inputs():
    return []
'''
KERNEL = '''
import torch, triton
import triton.language as tl

KNOBS = {"BLOCK": [256, 512]}
CHOICE = {}

@triton.jit
def relu_kernel(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < count)
    tl.store(out_ptr + at, tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + 1.0, mask=at < count)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        block = CHOICE.get("BLOCK", KNOBS["BLOCK"][0])
        relu_kernel[(triton.cdiv(x.numel(), block),)](x, out, x.numel(), BLOCK=block)
        return out
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    (folder / "relu.py").write_text(PROBLEM)
    problem = ke.read_problem(folder / "relu.py")
    workshop = ke.Workshop(problem, device="none")
    try:
        with ke.create_run(
            folder / "run", problem, "h100", workshop, settings=ke.settings_for("quick"), findable=False
        ) as run:
            yield run
    finally:
        workshop.close()


def asked(work):
    return asyncio.run(work)


def test_check_reads_the_text_alone(run):
    found = asked(run.tools.check(KERNEL))
    assert found.ok and found.facts["kernels"] == ["relu_kernel"]
    broken = asked(run.tools.check(KERNEL + "\nx = ("))
    assert not broken.ok and "never closed" in broken.text


def test_compile_gives_what_each_target_made_of_it(run):
    found = asked(run.tools.compile(KERNEL, ["h100", "mi300x"]))
    assert found.ok, found.text
    assert [row["target"] for row in found.facts["h100"]["resources"]] == ["sm_90"]
    assert [row["target"] for row in found.facts["mi300x"]["resources"]] == ["gfx942"]
    assert "registers a thread" in found.text and "(compiled)" in found.text
    assert set(asked(run.tools.compile(KERNEL)).facts) == {"h100"}


def test_a_compile_error_is_told_in_full_and_without_our_own_frames(run):
    found = asked(run.tools.compile(KERNEL.replace("tl.load(", "tl.lode(")))
    assert not found.ok and found.facts["h100"]["verdict"] == "COMPILE_ERROR"
    assert "has no attribute 'lode'" in found.text and "x = tl.lode(x_ptr" in found.text
    assert "worker/build.py" not in found.text and "site-packages" not in found.text


def test_interpret_compares_with_the_reference(run):
    found = asked(run.tools.interpret(KERNEL))
    assert found.ok, found.text
    assert "interpreted" in found.text
    wrong = asked(run.tools.interpret(KERNEL.replace("+ 1.0, mask", "+ 1.1, mask")))
    assert not wrong.ok and wrong.facts["verdict"] == "WRONG_VALUE"
    assert wrong.facts["failed_checks"] and "rms" in wrong.text


def test_several_ask_at_the_same_time_and_nothing_is_logged(run):
    before = run.graph.next_sequence

    async def both():
        return await asyncio.gather(*(run.tools.interpret(KERNEL.replace("256", size)) for size in ("128", "256")))

    assert [found.ok for found in asked(both())] == [True, True]
    assert run.graph.next_sequence == before and not run.graph.nodes


def test_an_unknown_target_names_those_that_there_are(run):
    with pytest.raises(ke.UnknownName, match=r"'h2000'.*mi300x"):
        asked(run.tools.compile(KERNEL, ["h2000"]))
