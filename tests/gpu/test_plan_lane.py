"""The launch-plan lane on an accelerator: what is carried out is what the candidate's process does, right and as fast;
what writes beside its memory or crashes is refused. Uses the functions of `benchmarks/plan_lane.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.gpu

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plan_lane.py"
DEVICE = "cuda:0"
NOISE = 0.1


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not torch.cuda.is_available() or torch.version.hip is not None:
        pytest.skip("no NVIDIA device")
    spec = importlib.util.spec_from_file_location("plan_lane_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["pointwise", "sum in parts", "planes", "tiles"])
def test_a_plan_is_right_and_as_fast_as_its_process(name: str, script: ModuleType, tmp_path: Path) -> None:
    from kernelevolve.judge.driver import driver_of
    from kernelevolve.judge.plan_lane import PlanArm

    problem = script.PROBLEMS[name]
    opened, module = script.opened_for(problem.source, DEVICE), script.loaded(script.generated(problem), tmp_path)
    plan, binaries = script.packed_for(opened, module, script.accelerator_of(DEVICE))
    arm = PlanArm(opened, plan, binaries, driver_of(DEVICE))
    compared = script.compare(opened, arm, module)
    assert compared["equal to the process lane"]
    assert all(case["passed"] and not case["changed"] for case in compared["cases"])
    timed = script.time_both(opened, arm, module, 8)
    low, _, high = timed["process / plan"]
    # A process pays for its allocations and its descriptors between launches; the plan never does.
    assert high > 1 - NOISE
    if name != "sum in parts":
        assert low < 1 + NOISE


def test_what_does_wrong_is_refused(script: ModuleType) -> None:
    for name, found in script.refusals(DEVICE).items():
        assert found["wanted"] in found["said"], name


def test_through_builder_judge_and_worker(script: ModuleType, tmp_path: Path) -> None:
    found = script.through_the_host(DEVICE, tmp_path)
    assert found["guard"]["held"] == "held"
    assert all(low <= value <= high for low, value, high in found["speedups"].values())
