"""A problem's policy on NaN, infinities, -0 and denormals: what is told in a label, and what is wrong in any case."""

from __future__ import annotations

import math

import pytest
import torch
from judged import TENSOR, Bench, source_of

from kernelevolve.evaluate.climb import labels_of
from kernelevolve.evaluation import Check, Correctness, Evidence
from kernelevolve.judge.admission import try_distribution
from kernelevolve.judge.special import CHECK, NO_NAN, OTHERS, TINY
from kernelevolve.protocol import Case

SPECIAL = Case(5, "D12")
STRICT = 'special_values = "propagate"\n'
RELU = source_of("return torch.relu(x)", "[torch.randn(48, 64)]")
LOG = source_of("return torch.log(x.abs())", "[torch.randn(48, 64)]")
SOFTMAX = source_of("return torch.softmax(x, -1)", "[torch.randn(48, 64)]")
CODES = source_of(
    "return torch.round(x / x.abs().amax(-1, keepdim=True).clamp(min=1e-6) * 127).to(torch.int8)",
    "[torch.randn(48, 64)]",
)
LARGEST = source_of("return x.argmax(-1)", "[torch.randn(48, 64)]")
TOP = source_of("return x.topk(4, -1).indices", "[torch.randn(48, 64)]")
MASKED = source_of(
    "return torch.softmax((x @ y.mT).masked_fill(torch.ones(16, 16).tril() == 0, -torch.inf), -1) @ y",
    "[torch.randn(4, 16, 32), torch.randn(4, 16, 32)]",
    arguments="x, y",
)


def seen(source: str, sidecar: str | None, given: object, case: Case = SPECIAL) -> tuple[list[Check], list[str]]:
    """The comparisons that fail, and the labels of those that pass."""
    bench = Bench(source, sidecar)
    assert bench.reference.compute(case).usable
    out = given(*bench.inputs(case)) if callable(given) else given
    checks = bench.judge(case, [("out", out)]).checks
    labels = labels_of([Correctness(Evidence.INTERPRETED, True, checks)])
    return [c for c in checks if not c.passed], list(dict.fromkeys(labels))


def loses_nan(x: TENSOR) -> TENSOR:
    return torch.where(x > 0, x, 0.0)


def test_a_lost_nan_is_a_label_where_inputs_are_finite_and_wrong_where_it_must_come_out() -> None:
    assert seen(RELU, None, torch.relu) == ([], [])
    assert seen(RELU, STRICT, torch.relu) == ([], [])
    assert seen(RELU, None, loses_nan) == ([], [NO_NAN])
    wrong, labels = seen(RELU, STRICT, loses_nan)
    assert [c.name for c in wrong] == ["non-finite"] and not labels
    assert "0 instead of nan" in wrong[0].detail


@pytest.mark.parametrize("sidecar", [None, STRICT])
def test_an_infinity_in_one_row_does_not_reach_another(sidecar: str | None) -> None:
    def leaks(x: TENSOR) -> TENSOR:
        out = torch.relu(x)
        rows = x.isfinite().all(-1)
        assert not rows.all() and rows.any()
        out[int(rows.nonzero()[0])] += 0.0 * x.sum()  # NaN from the others' infinities
        return out

    wrong, labels = seen(RELU, sidecar, leaks)
    assert [c.name for c in wrong] == ["non-finite"] and not labels

    def shifts(x: TENSOR) -> TENSOR:
        out = torch.relu(x)
        out[int(x.isfinite().all(-1).nonzero()[0]), 3] += 1.0
        return out

    wrong, _ = seen(RELU, sidecar, shifts)
    assert "element" in [c.name for c in wrong]


@pytest.mark.parametrize("sidecar", [None, STRICT])
def test_nan_that_comes_of_finite_inputs_stands_where_the_reference_has_it(sidecar: str | None) -> None:
    roots = source_of("return torch.sqrt(x)", "[torch.randn(48, 64)]")
    for case in (Case(1), Case(2, "D3"), SPECIAL):
        assert seen(roots, sidecar, torch.sqrt, case) == ([], [])
        wrong, _ = seen(roots, sidecar, lambda x: torch.sqrt(x.clamp(min=0.0)), case)
        assert "non-finite" in [c.name for c in wrong]


def test_what_depends_on_a_special_value_is_left_out_and_nothing_else() -> None:
    def half(x: TENSOR) -> TENSOR:
        return torch.softmax(x.nan_to_num(0.0, 50.0, -50.0), -1)

    assert seen(SOFTMAX, None, half)[0] == [] and NO_NAN in seen(SOFTMAX, None, half)[1]
    wrong, _ = seen(SOFTMAX, STRICT, half)
    assert wrong
    wrong, _ = seen(SOFTMAX, None, lambda x: half(x) * (1.0 + 1e-3))
    assert {"rms", "element"} <= {c.name for c in wrong}


def test_denormals_may_be_taken_for_zero() -> None:
    def flushes(x: TENSOR) -> TENSOR:
        return torch.log(torch.where(x.abs() < 1.2e-38, 0.0, x).abs())

    assert seen(LOG, None, flushes) == ([], [TINY])
    wrong, _ = seen(LOG, STRICT, flushes)
    assert "non-finite" in [c.name for c in wrong]


def test_codes_and_positions_of_rows_with_special_values_are_no_ones_promise() -> None:
    def codes(x: TENSOR) -> TENSOR:
        x = x.nan_to_num(0.0, 3.0, -3.0)
        return torch.round(x / x.abs().amax(-1, keepdim=True).clamp(min=1e-6) * 127).to(torch.int8)

    assert seen(CODES, None, codes)[0] == []
    assert seen(CODES, None, codes)[1] == [OTHERS]
    assert seen(CODES, STRICT, codes)[0]
    assert seen(CODES, None, lambda x: codes(x) + (torch.arange(48)[:, None] % 7 == 0).to(torch.int8))[0]

    def largest(x: TENSOR) -> TENSOR:
        return x.nan_to_num(-math.inf).argmax(-1)

    assert seen(LARGEST, None, largest) == ([], [OTHERS])
    assert [c.name for c in seen(LARGEST, STRICT, largest)[0]] == ["positions"]
    assert seen(LARGEST, None, lambda x: largest(x).fill_(0))[0]
    assert seen(TOP, None, lambda x: x.nan_to_num(-math.inf).topk(4, -1).indices) == ([], [OTHERS])


def test_work_that_nobody_needs_may_be_left_out() -> None:
    """A kernel that does not read what the mask hides gives numbers where the reference multiplies 0 by infinity."""

    def skips(x: TENSOR, y: TENSOR) -> TENSOR:
        made = torch.zeros_like(x)
        for row in range(16):
            scores = torch.softmax(x[:, row : row + 1] @ y[:, : row + 1].mT, -1)
            made[:, row : row + 1] = scores @ y[:, : row + 1]
        return made

    assert seen(MASKED, None, skips) == ([], [NO_NAN])
    assert seen(MASKED, STRICT, skips)[0]


def test_a_loss_that_should_be_nan_is_looked_at_where_nan_must_come_out() -> None:
    loss = source_of("return (x * x).mean()", "[torch.randn(48, 64)]")

    def hides(x: TENSOR) -> TENSOR:
        return (x * x).nan_to_num(0.0, 0.0, 0.0).mean()

    assert not Bench(loss).reference.compute(SPECIAL).usable
    assert seen(loss, STRICT, lambda x: (x * x).mean()) == ([], [])
    assert [c.name for c in seen(loss, STRICT, hides)[0]] == ["non-finite"]
    tried = try_distribution(Bench(loss, STRICT).reference, "D12")
    assert (tried.unusable, tried.models) == ("", ())


def test_the_label_says_what_and_the_comparison_how_many() -> None:
    bench = Bench(RELU)
    (x,) = bench.inputs(SPECIAL)
    (said,) = [c for c in bench.judge(SPECIAL, [("out", loses_nan(x))]).checks if c.name == CHECK]
    assert said.passed and said.value == 1.0
    assert said.detail == f"out: {NO_NAN} (1 of 3072 elements, all of which depend on special values)"
