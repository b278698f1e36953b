"""A problem on whose own inputs a mean alone would pass: what stands in for all cases is one that says something, and
timed calls get inputs on which being right means something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernelevolve import plugins
from kernelevolve.candidate import Candidate
from kernelevolve.equipment import Workshop
from kernelevolve.errors import ProblemError
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import Trial, compare
from kernelevolve.evaluate.ladder import Ladder
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.timing import Blocks
from kernelevolve.evaluation import Correctness, Evidence
from kernelevolve.problem import parse_problem
from kernelevolve.protocol import Case
from kernelevolve.selftest.kernels.rows import ROW_SUM_BF16
from kernelevolve.selftest.specimen import PROBLEMS
from kernelevolve.settings import LANES, settings_for

CASES = Case(1, "declared"), Case(2, "declared"), Case(3, "D1"), Case(4, "D3"), Case(5, "D1")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    source = (PROBLEMS / "row_sum_bf16.py").read_text()
    shop = Workshop(parse_problem(source, None, name="rows", suite="folder", path="rows.py"), device="none")
    yield shop.bench(Path(tmp_path_factory.mktemp("builds")))
    shop.close()


def compared(bench: Bench, cases: tuple[Case, ...], enough: int) -> Correctness:
    answers = plugins.load("platforms", "h100").device_answers()
    trial = Trial(ROW_SUM_BF16, {}, bench.small()[0], "cpu", answers)
    return compare(bench, trial, cases, Evidence.INTERPRETED, enough=enough)[0]


@pytest.mark.parametrize(("enough", "distributions"), [(1, {"D1"}), (3, {"D1"}), (4, {"D1", "D3"})])
def test_cases_go_on_until_one_says_something(bench: Bench, enough: int, distributions: set[str]) -> None:
    found = compared(bench, CASES, enough)
    assert found.passed and {c.distribution for c in found.checks} == distributions
    assert any("declared" in said and "nearly constant" in said for said in found.not_seen)


def test_that_none_says_anything_is_told_of_the_problem(bench: Bench) -> None:
    with pytest.raises(ProblemError, match=r"no case says anything .*nearly constant"):
        compared(bench, CASES[:2], 1)


def test_timed_calls_and_tests_of_behaviour_get_inputs_that_say_something(bench: Bench) -> None:
    platform = plugins.load("platforms", "h100")
    device = Device("cpu", "this CPU", full_cases=1, blocks=Blocks(2, 0), answers=platform.device_answers())
    costs = SimpleNamespace(candidate=lambda *_: (), baselines=lambda *_: {}, least=lambda *_: ())
    quick = settings_for("quick")
    ladder = Ladder(bench, platform, quick, costs, seed=0, device=device, interpret=False)
    ladder.lane = replace(LANES["screen"], structure=("hold",), hidden=0, defences=("timed-outputs",), modes=("cold",))
    ladder.modelling.limit = lambda climb, built: ""  # type: ignore[method-assign]
    try:
        right = ladder.climb(Candidate("n0", "b0", "guest", ROW_SUM_BF16), lambda rung: None, lambda data: "kept")
        assert right.verdict.ok, right.rungs[-1].message
        (timed,) = (g for g in right.guards if g.name == "timed-outputs")
        assert timed.held == "held" and "passing means nothing" not in timed.detail
    finally:
        device.close(bench)
        ladder.builder.close()
