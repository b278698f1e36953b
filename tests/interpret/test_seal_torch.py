"""The seal around a real worker: a kernel runs in it, and what its file tries at import comes to nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.correct import Failed, Trial, compare
from kernelevolve.evaluation import Evidence, Verdict
from kernelevolve.platforms import Platform
from kernelevolve.plugins import load
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case
from kernelevolve.seal import bubblewrap, layers

REFERENCE = """
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return x + 1


def get_inputs():
    return [torch.rand(8, 128)]


def get_init_inputs():
    return []
"""
KERNEL = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def add_one(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


class ModelNew(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        add_one[(triton.cdiv(x.numel(), 128),)](x, y, x.numel(), BLOCK=128)
        return y
"""
SPY = """
import os, socket, subprocess

def tries(what, *arguments):
    try:
        return what(*arguments)
    except OSError:
        return None

def spy(canary, checkout):
    found = [tries(open, canary), tries(os.listdir, checkout + "/.git"), tries(open, checkout + "/pyproject.toml")]
    found += [tries(socket.create_connection, ("127.0.0.1", 22), 1), os.environ.get("KERNELEVOLVE_TEST_TOKEN")]
    found += [tries(open, path, "w") for path in ("/usr/x", "/proc/sys/kernel/hostname", triton.__file__)]
    if any(f is not None for f in found):
        raise RuntimeError(f"got hold of {found}")
    if subprocess.run(["true"]).returncode:
        raise RuntimeError("no program runs, so nothing would compile")
"""


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERNELEVOLVE_TEST_TOKEN", "secret")
        made = Workshop(parse_problem(REFERENCE, None, name="one", suite="folder", path="one.py"), device="none")
        yield made
        made.close()


@pytest.mark.skipif(not layers.probe().landlock.holds, reason=layers.probe().landlock.found)
@pytest.mark.parametrize("lane", ["screen", "publish"])
def test_a_kernel_runs_sealed_and_its_file_gets_hold_of_nothing(
    workshop: Workshop, lane: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if lane == "publish" and not bubblewrap.probe().holds:
        pytest.skip(bubblewrap.probe().found)
    bench = workshop.bench(tmp_path_factory.mktemp("builds"))
    workshop.roles.lane = lane  # type: ignore[assignment]
    platform: Platform = load("platforms", "h100")
    canary = Path.home() / f".netrc-canary-{os.getpid()}"
    canary.write_text("secret")
    try:
        attack = f"{SPY}\nspy({str(canary)!r}, {str(Path(__file__).parents[2])!r})\n"
        small = bench.small()[0]
        trial = Trial(KERNEL + attack, {}, small, "cpu", platform.device_answers())
        try:
            found, isolation = compare(bench, trial, [Case(1)], Evidence.INTERPRETED)
        except Failed as failed:
            pytest.fail(f"{failed.verdict}: {failed}\n{failed.detail}")
    finally:
        canary.unlink()
    assert found.passed and found.checks
    inner = layers.probe().isolation
    assert isolation == (inner if lane == "screen" else inner.replace("namespaces", "bwrap"))
    assert workshop.roles.isolation == isolation


def test_a_crash_in_bubblewrap_is_the_candidates(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not bubblewrap.probe().holds:
        pytest.skip(bubblewrap.probe().found)
    bench = workshop.bench(tmp_path_factory.mktemp("builds"))
    workshop.roles.lane = "publish"
    platform: Platform = load("platforms", "h100")
    trial = Trial(f"{KERNEL}\nimport os; os.abort()\n", {}, bench.small()[0], "cpu", platform.device_answers())
    with pytest.raises(Failed, match="SIGABRT") as caught:
        compare(bench, trial, [Case(1)], Evidence.INTERPRETED)
    assert caught.value.verdict is Verdict.CRASH
