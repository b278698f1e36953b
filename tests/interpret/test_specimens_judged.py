"""The specimens of mathematics, numerics and memory before the oracle, in this process: each cheat gets a verdict that
names its fault, and no honest oddity is refused. `kernelevolve selftest` takes the same ones up the whole ladder."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from court import Court
from planned import loaded, opened_for, recorded

from kernelevolve import plugins
from kernelevolve.evaluation import Verdict
from kernelevolve.protocol import Case
from kernelevolve.selftest.specimen import Specimen, read
from kernelevolve.selftest.specimens import honest, mathematics, memory, numerics, values
from kernelevolve.settings import LANES
from kernelevolve.tensors import load
from kernelevolve.worker.interpret import CannotBeSeen, interpreting
from kernelevolve.worker.plan import LaunchStep, Recording
from kernelevolve.worker.pose import posing

# What the comparison alone cannot see: admission refuses the problem, the build refuses the launch, the structure tests
# fill the output with other things than NaN, and the process's flags are put back between calls.
ELSEWHERE = {"A33d", "A51", "A97a", "A97b", "A55a", "A60"}
HERE = [s for m in (mathematics, numerics, memory, honest) for s in m.SPECIMENS if "cpu" in s.where]
CHEATS = [s for s in HERE if s.verdicts and s.id not in ELSEWHERE]
ODD = [s for s in HERE if s.family == "honest"]
# An honest one takes every case that there is: these have shown the most wrong rejections.
SHOWN = (Case(1, "declared"), Case(2, "D2"), Case(3, "D6"))


@functools.lru_cache(maxsize=2)  # specimens of one problem follow each other
def court(problem: str) -> Court:
    return Court(read(problem))


def by_problem(specimens: list[Specimen]) -> list[Specimen]:
    return sorted(specimens, key=lambda s: s.problem)


@pytest.mark.parametrize("specimen", by_problem(CHEATS), ids=lambda s: s.id)
def test_a_cheat_gets_the_verdict_that_names_its_fault(specimen: Specimen) -> None:
    cases = [Case(i, d) for i, d in enumerate(LANES[specimen.lane].distributions, 1)]
    verdict, found = court(specimen.problem).verdict(specimen.source, cases)
    assert verdict in specimen.verdicts, f"{verdict}: {found}"


@pytest.mark.parametrize("specimen", values.SPECIMENS, ids=lambda s: s.id)
def test_a_cheat_that_looks_at_its_values_is_shown_by_one_distribution(specimen: Specimen) -> None:
    """And by no other: `kernelevolve selftest --matrix` tries all of them."""
    where = court(specimen.problem)
    shown = [where.verdict(specimen.source, [Case(seed, specimen.distribution)], ragged=0)[0] for seed in (1, 2)]
    assert Verdict.WRONG_VALUE in shown, specimen.distribution
    other = "D2" if specimen.distribution != "D2" else "D1"
    assert where.verdict(specimen.source, [Case(1, other)], ragged=0)[0].ok


@pytest.mark.parametrize("specimen", by_problem(ODD), ids=lambda s: s.id)
def test_an_honest_oddity_passes(specimen: Specimen) -> None:
    verdict, found = court(specimen.problem).verdict(specimen.source, SHOWN, ragged=1)
    assert verdict.ok, f"{verdict}: {found}"


def test_streams_and_events_can_be_planned_without_a_device() -> None:
    with posing(plugins.load("platforms", "h100").device_answers(), Recording()):
        here, side, begun = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Event()
        begun.record(here)
        side.wait_event(begun)
        x = torch.empty(4, device="meta")
        with torch.cuda.stream(side):
            x.record_stream(side)
        here.wait_stream(side)
        assert side.query() and x.is_cuda


def test_a_graph_is_planned_as_what_its_replays_launch_and_left_to_the_device(tmp_path: Path) -> None:
    (specimen,) = (s for s in honest.SPECIMENS if s.id == "L2")
    recording, _, _ = recorded(opened_for(read(specimen.problem).source), specimen.source, tmp_path)
    names = [step.compilable.function.__name__ for step in recording.steps if isinstance(step, LaunchStep)]
    # Once to warm up and once when it is replayed: capturing itself runs nothing.
    assert names == ["relu_gemm"] * 2 and len(recording.launches) == 2
    module = loaded(specimen.source, tmp_path)
    model = module.ModelNew(*load.load_module(read(specimen.problem).source).get_init_inputs())
    with interpreting(), pytest.raises(CannotBeSeen, match="a CUDA graph"):
        model(torch.randn(96, 64))
