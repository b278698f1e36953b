"""Sizes that no file names: drawn by a secret, accepted by the reference, and what candidates make of them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_structure import HEAD, HONEST, REFERENCE, forward

from kernelevolve import codec, plugins
from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.asking import Bounds, Failed, Trial
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.hidden import compare_hidden
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluation import Evidence, Guard, Verdict
from kernelevolve.judge.answers import describe_problem
from kernelevolve.problem import Problem, parse_problem
from kernelevolve.protocol import Description, Variant
from kernelevolve.tensors import hidden
from kernelevolve.tensors.describe import describe
from kernelevolve.tensors.scale import Budget

GROUPED = """
import torch
import torch.nn as nn

BATCH, CHANNELS, LENGTH = 64, 4096, 512


class Model(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, x):
        return self.norm(x)


def get_inputs():
    return [torch.randn(BATCH, CHANNELS, LENGTH)]


def get_init_inputs():
    return [CHANNELS]
"""


def problem_of(source: str) -> Problem:
    return parse_problem(source, None, name="p", suite="folder", path="p.py")


@pytest.fixture(scope="module")
def grouped() -> tuple[Problem, Description]:
    problem = problem_of(GROUPED)
    return problem, next(d for d in describe_problem(problem) if d.variant.size == "scaled")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**62))
def test_each_hidden_size_runs_fits_the_budget_and_is_another(grouped: tuple[Problem, Description], seed: int) -> None:
    problem, small = grouped
    budget = Budget()
    found = list(hidden.draws(GROUPED, problem, small, random.Random(seed), 1, budget))[:3]
    again = list(hidden.draws(GROUPED, problem, small, random.Random(seed), 1, budget))[:3]
    assert found == again
    shapes = set()
    for variant in found:
        assert variant.size == "hidden" and variant.label == f"declared/hidden-{variant.number}"
        described = describe(problem, variant, small)
        (x,) = described.inputs
        assert x.shape[1] % 8 == 0  # groups are structure: what the reference refuses is not drawn
        assert [s.shape for s in described.state] == [(x.shape[1],), (x.shape[1],)]
        assert 0 < x.shape[0] * x.shape[1] * x.shape[2] <= budget.largest
        shapes.add(x.shape)
    assert len(shapes) == len(found) and small.inputs[0].shape not in shapes


def test_sizes_of_one_of_tiles_of_primes_and_between_are_drawn() -> None:
    problem = problem_of(REFERENCE)
    small = describe(problem, Variant("declared", "scaled", REFERENCE))
    found = list(hidden.draws(REFERENCE, problem, small, random.Random(3), 12, Budget()))
    sides = {size for variant in found for size in describe(problem, variant, small).inputs[0].shape} - {24, 96}
    assert 1 in sides
    assert sides & {t + d for t in hidden.TILES for d in (-1, 0, 1)}
    assert any(all(n % d for d in range(2, n)) for n in sides if n > 4)
    assert len(found) >= 12 and len({v.number for v in found}) == len(found)
    assert hidden.sizes_of(("4096 -> 64 (lines 12, 15)", "24 -> 8 (line 3)")) == {4096: 64, 24: 8}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**62))
def test_a_ladder_goes_from_small_to_large_with_more_work_each_time(
    grouped: tuple[Problem, Description], seed: int
) -> None:
    problem, small = grouped
    found = list(hidden.ladder(GROUPED, problem, small, random.Random(seed), 5, hidden.ON_DEVICE))
    shapes = [describe(problem, variant, small).inputs[0].shape for variant in found]
    elements = [math.prod(shape) for shape in shapes]
    assert 3 <= len(found) <= 5
    assert all(b >= hidden.GROWTH * a for a, b in itertools.pairwise(elements))
    assert all(channels % 8 == 0 for _, channels, _ in shapes)
    assert elements[0] < math.prod(small.inputs[0].shape) and elements[-1] <= hidden.ON_DEVICE.largest
    near = list(hidden.ladder(GROUPED, problem, small, random.Random(seed), 5, Budget()))
    assert near and describe(problem, near[-1], small).inputs[0].shape == small.inputs[0].shape


def test_what_cannot_be_scaled_has_no_ladder() -> None:
    fixed = GROUPED.replace("64, 4096, 512", "2, 8, 4")
    problem = problem_of(fixed)
    small = describe(problem, Variant("declared", "scaled", fixed))
    assert len(list(hidden.ladder(fixed, problem, small, random.Random(1), 5, Budget()))) <= 1


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    workshop = Workshop(problem_of(REFERENCE), device="none")
    yield workshop.bench(tmp_path_factory.mktemp("builds"))
    workshop.close()


def hidden_guard(bench: Bench, source: str) -> tuple[Guard, list[str]]:
    seeds, guards = Seeds(bytes(16)), []
    sizes = bench.hidden("declared", "cpu", 7, 4)
    assert len(sizes) == 4 and sizes == bench.hidden("declared", "cpu", 7, 4)
    assert sizes != bench.hidden("declared", "cpu", 8, 4)
    small = next(d for d in bench.small() if d.variant.size == "scaled")
    answers = plugins.load("platforms", "h100").device_answers()
    trial = Trial(source, {}, small, "cpu", answers, Bounds(memory_bytes=3 << 30))

    def report(name: str, held: str, detail: str = "") -> None:
        guards.append(Guard(name, held, detail))  # type: ignore[arg-type]

    labels = compare_hidden(bench, trial, sizes, seeds, Evidence.INTERPRETED, report)
    (guard,) = guards
    return guard, labels


def test_a_general_kernel_is_right_at_hidden_sizes(bench: Bench) -> None:
    guard, labels = hidden_guard(bench, HONEST)
    assert (guard.name, guard.held, labels) == ("hidden-shapes", "held", [])
    assert "4 sizes that no file names came out right, 0 were refused" in guard.detail


@pytest.mark.parametrize("error", ["ValueError", "NotImplementedError"])
def test_a_candidate_may_refuse_other_shapes_before_it_launches(bench: Bench, error: str) -> None:
    body = f"if tuple(x.shape) != (24, 96):\n    raise {error}('only 24 rows of 96')\nreturn self.compute(x, y)"
    guard, labels = hidden_guard(bench, forward(body))
    assert guard.held == "held" and labels == ["shapes: declared only"]
    assert "0 sizes that no file names came out right, 4 were refused" in guard.detail


WRONG = {
    "a size written into the launch": "out = torch.empty_like(x)\n"
    "scaled_sum[(9,)](x, self.gain, y, out, min(24 * 96, x.numel()), x.shape[-1], BLOCK=256)\nreturn out",
    "an exception of another kind": "assert x.shape[-1] == 96\nreturn self.compute(x, y)",
    "a refusal after a launch": "out = self.compute(x, y)\nif tuple(x.shape) != (24, 96):\n"
    "    raise ValueError('too late')\nreturn out",
    "an error of a library's": "torch.empty(24, 96).view(x.shape)\nreturn self.compute(x, y)",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_at_other_sizes_is_no_generalization(bench: Bench, name: str) -> None:
    with pytest.raises(Failed) as caught:
        hidden_guard(bench, forward(WRONG[name], HEAD))
    found = caught.value
    assert found.verdict is Verdict.GENERALIZATION and found.artefact["guard"] == "hidden-shapes"
    assert found.artefact["sizes"] and found.artefact["found"]
    # Whoever writes the next kernel reads the message: no size is in it.
    assert not any(character.isdigit() for character in str(found))
    assert codec.dumps(dict(found.artefact))
