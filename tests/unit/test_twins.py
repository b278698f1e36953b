"""Candidates that were built to the same launches as a measured one, with a builder that answers from a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernelevolve.candidate import Candidate
from kernelevolve.evaluate.building import Built
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluate.twins import Twins, repeated
from kernelevolve.evaluation import Evaluation, Guard, Resources, Verdict
from kernelevolve.testing import FAKE_PLATFORM, fake_evaluation, fake_plan

KNOBS = {"BLOCK": (64, 128)}
DEFAULT, TUNED = {"BLOCK": 64}, {"BLOCK": 128}


def built(code: str, kernel: str = "kernel", grid: int = 7) -> Built:
    plan = fake_plan(Candidate("n", "b", "fake", ""))
    (launch,) = plan.launches
    return Built(
        replace(plan, launches=(replace(launch, kernel=kernel, grid=(grid, 1, 1)),)),
        (Resources(kernel, "sm_90", code, 32, 0, 0, 4, 1.0),),
    )


def text(body: str = "pass", host: str = "return kernel[(7,)](x)", imports: str = "import triton") -> str:
    return f"{imports}\n\n@triton.jit\ndef kernel(x):\n    {body}\n\ndef forward(x):\n    {host}\n"


ONE, TWO = text(), text("x += 0  # another text of the kernel")


class Table:
    """Builds by source and block; what is not in it does not build."""

    def __init__(self, rows: dict[str, tuple[Built, Built | None]]) -> None:
        self.rows = rows

    def build(self, source, choice, workloads=()):
        found = self.rows[source][choice == TUNED]
        if found is None:
            raise Failed(Verdict.COMPILE_ERROR, "not in the table")
        return [found]


def measured(quality: float = 2.0, verdict: Verdict | None = None) -> Evaluation:
    found = fake_evaluation(quality, verdict=verdict)
    guards = (Guard("overwrite", "held", "looked at"),)
    return replace(
        found, timings=tuple(replace(t, knobs=TUNED) for t in found.timings), device_seconds=5.0, guards=guards
    )


def twin_of(second: tuple[Built, Built | None], *, knobs=KNOBS, evaluation: Evaluation | None = None, one=ONE, two=TWO):
    first = (built("aa"), built("bb"))
    twins, table = Twins(), Table({one: first, two: second})
    twins.tell(Candidate("n0", "b0", "fake", one), KNOBS, [first[0]], evaluation or measured())
    return twins.of(Candidate("n1", "b1", "fake", two), knobs, [second[0]], table)


def test_the_same_launches_at_both_choices_are_a_twin_whatever_the_kernels_text() -> None:
    twin = twin_of((built("aa"), built("bb")))
    assert twin is not None and twin.candidate.id == "n0"
    found = repeated(twin, (), FAKE_PLATFORM)
    assert (found.verdict, found.timings, found.device_seconds) == (Verdict.OK_FASTER, twin.evaluation.timings, 0.0)
    assert found.rungs[-1].status == "skipped" and found.guards[0].held == "not run"
    assert any("not measured: its launches are those of n0" in label for label in found.labels)


@pytest.mark.parametrize(
    "second",
    [
        (built("cc"), built("bb")),
        (built("aa"), built("cc")),
        (built("aa", grid=8), built("bb")),
        (built("aa"), None),
        (built(""), built("")),
    ],
)
def test_another_code_or_grid_at_either_choice_is_no_twin(second) -> None:
    assert twin_of(second) is None


def test_other_knobs_or_a_wrong_first_one_are_no_twin() -> None:
    same = (built("aa"), built("bb"))
    assert twin_of(same, knobs={"BLOCK": (64, 256)}) is None
    assert twin_of(same, evaluation=measured(verdict=Verdict.WRONG_VALUE)) is None


@pytest.mark.parametrize(
    "two",
    [
        text(host="import os; os._exit(0) if x.is_cuda else 0; return kernel[(7,)](x)"),
        text() + "SPARE = 1\n",
        text().replace("@triton.jit", "@triton.jit\n@marked"),
    ],
)
def test_who_has_the_same_launches_and_other_python_is_no_twin(two: str) -> None:
    assert twin_of((built("aa"), built("bb")), two=two) is None


@pytest.mark.parametrize(
    "imports",
    [
        "import mine as triton",
        "from mine import triton",
        "import triton\nclass triton: jit = staticmethod(lambda f: f)",
        "import triton\ntriton.jit = lambda f: f",
        "import triton\nsetattr(triton, 'j' + 'it', lambda f: f)",
        "import triton\ndef made(triton): pass",
        "import triton\n)",
    ],
)
def test_where_a_kernel_may_be_a_function_that_python_runs_nobody_is_a_twin(imports: str) -> None:
    one, two = text(imports=imports), text("x += 0", imports=imports)
    assert twin_of((built("aa"), built("bb")), one=one, two=two) is None


def test_twins_launch_the_same_for_their_gradients_too() -> None:
    def both(code: str, unrecorded: str = "") -> Built:
        one = built("aa")
        backward = fake_plan(Candidate("n", "b", "fake", ""))
        extra = Resources("backward", "sm_90", code, 32, 0, 0, 4, 1.0)
        (launch,) = backward.launches
        gradients = replace(backward, launches=(replace(launch, kernel="backward"),))
        return Built(one.plan, (*one.resources, extra), None if unrecorded else gradients, unrecorded)

    def twin(first: Built, second: Built) -> bool:
        twins = Twins()
        builder = Table({ONE: (first, first), TWO: (second, second)})
        twins.tell(Candidate("n0", "b0", "fake", ONE), KNOBS, [first], measured())
        return twins.of(Candidate("n1", "b1", "fake", TWO), KNOBS, [second], builder) is not None

    assert twin(both("bb"), both("bb"))
    assert not twin(both("bb"), both("cc")), "another backward kernel"
    assert not twin(both("bb", "no data"), both("bb", "no data")), "nobody knows what autograd launches"
