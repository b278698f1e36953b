"""A candidate with an autotuned kernel and knobs of its own: more than one configuration is tried, and the tuned file
launches the chosen one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernelevolve import plugins
from kernelevolve.candidate import Candidate, Choice
from kernelevolve.engineer import Engineer
from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.building import Built
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluation import Evaluation, Figure, Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.settings import settings_for

REFERENCE = """
import torch

ROWS = 64


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) * 2 + 1


def get_inputs():
    return [torch.rand(ROWS, 1024)]
"""
WORKLOADS = """
[[workload]]
name = "few"

[[workload]]
name = "many"
set = { ROWS = 256 }
"""
# The last configuration, larger than Triton's largest block, does not compile.
SOURCE = """
import torch
import triton
import triton.language as tl
from triton import Config, autotune

KNOBS = {"SCALE_BLOCK": [1024, 512]}
CHOICE = {"SCALE_BLOCK": 1024}
CONFIGS = [
    Config({"BLOCK": 512}, num_warps=8),
    Config({"BLOCK": 1024}, num_warps=4, num_stages=2),
    Config({"BLOCK": 2097152}, num_warps=4),
]


@autotune(configs=CONFIGS, key=["n"])
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def relu(x, y, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.maximum(tl.load(x + i, mask=i < n), 0.0), mask=i < n)


@triton.jit
def scale(y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(y + i, mask=i < n) * 2 + 1, mask=i < n)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        y, n = torch.empty_like(x), x.numel()
        relu[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n)
        scale[(triton.cdiv(n, CHOICE["SCALE_BLOCK"]),)](y, n, BLOCK=CHOICE["SCALE_BLOCK"])
        return y
"""
# Without kernelevolve: right values, the configuration that ran, and no benchmark.
ALONE = """
import sys
sys.modules["kernelevolve"] = None
import importlib.util
import torch
from triton.runtime.autotuner import Autotuner
def bench(*args, **kwargs):
    raise AssertionError("benchmarks")
Autotuner._bench = bench
spec = importlib.util.spec_from_file_location("tuned", sys.argv[1])
tuned = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tuned)
for rows in (3, 64):
    x = torch.randn(rows, 100)
    torch.testing.assert_close(tuned.ModelNew()(x), torch.relu(x) * 2 + 1)
print(tuned.relu.best_config.kwargs["BLOCK"], tuned.relu.best_config.num_warps)
"""
BLOCKS = (512, 1024, 2097152)


def test_configurations_are_tried_and_the_tuned_file_launches_the_chosen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = parse_problem(REFERENCE, WORKLOADS, name="relu", suite="folder", path="relu.py")
    workshop = Workshop(problem, device="none")
    platform = plugins.load("platforms", "h100")
    ladder = Ladder(
        workshop.bench(tmp_path / "builds"), platform, settings_for("quick"),
        Engineer(problem, platform, workshop.program), seed=0,
    )  # fmt: skip
    tried: set[tuple[Choice, ...]] = set()
    build_some = ladder.builder.build_some

    def watched(source: str, choices: Sequence[Mapping[str, Choice]], workloads: Any) -> Any:
        tried.update((c["relu_config"], c["SCALE_BLOCK"]) for c in choices)
        return build_some(source, choices, workloads)

    monkeypatch.setattr(ladder.builder, "build_some", watched)
    modelled = ladder.modelling._modelled

    def second_is_best(candidate: Candidate, built: Built, choice: Mapping[str, Choice]) -> Figure:
        figure = modelled(candidate, built, choice)
        return figure if choice["relu_config"] == 1 else replace(figure, value=2 * figure.value)

    # Both move the same bytes, so that the model by itself has no reason to leave the default.
    monkeypatch.setattr(ladder.modelling, "_modelled", second_is_best)

    def blocks(source: str, choice: Mapping[str, Choice]) -> set[tuple[Any, ...]]:
        plans = [built.plan for built in ladder.builder.build(source, choice)]
        return {tuple(launch.constants["BLOCK"] for launch in plan.launches) for plan in plans}

    found: Evaluation
    try:
        found = ladder.climb(Candidate("n0", "b0", "guest", SOURCE), lambda rung: None, lambda data: "kept")
        assert found.verdict is Verdict.OK_UNTIMED, found.rungs[-1].message
        assert {index for index, _ in tried} == {0, 1, 2} and {size for _, size in tried} == {1024, 512}
        few, many = (dict(timing.knobs) for timing in found.timings)
        assert few == many and set(few) == {"relu_config", "SCALE_BLOCK"}
        index = int(few["relu_config"])
        assert index == 1, found.timings
        assert any(label.startswith("one choice for all workloads") for label in found.labels)
        for other in (0, 1):
            assert blocks(SOURCE, {"relu_config": other, "SCALE_BLOCK": 512}) == {(BLOCKS[other], 512)}
        # What was judged is what the tuned file launches by itself.
        assert blocks(found.tuned_source, {}) == {(BLOCKS[index], few["SCALE_BLOCK"])}
    finally:
        ladder.builder.close()
        workshop.close()
    assert f"configs=CONFIGS[{index}:{index + 1}]" in found.tuned_source
    path = tmp_path / "relu_tuned.py"
    path.write_text(found.tuned_source)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == [str(BLOCKS[index]), "4"]
