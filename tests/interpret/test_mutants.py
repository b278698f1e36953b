"""Mechanically made mistakes in honest kernels are rejected; `benchmarks/mutation_score.py` tries all kernels on every
distribution of the lane `accept`, here are a few of both."""

from __future__ import annotations

import ast

import pytest
from court import Court
from equivalent import reason_for

from kernelevolve.protocol import Case
from kernelevolve.selftest.kernels.known import KNOWN
from kernelevolve.selftest.mutants import OPERATORS, Mutant, mutants
from kernelevolve.selftest.specimen import read

CASES = tuple(Case(i, d) for i, d in enumerate(("declared", "D3", "D7", "D8", "D12"), 1))
SHARE = 0.95


@pytest.mark.parametrize("problem", ["masked_mean", "one_column", "permuted_rows", "transposed_input", "variance_rows"])
def test_mistakes_are_rejected(problem: str) -> None:
    court = Court(read(problem))
    verdict, found = court.verdict(ast.unparse(ast.parse(KNOWN[problem])), CASES)
    assert verdict.ok, f"the honest kernel itself: {found}"
    made = list(mutants(KNOWN[problem]))
    survivors = [m for m in made if court.verdict(m.source, CASES)[0].ok]
    unexplained = [m for m in survivors if not reason_for(problem, m)]
    killed = len(made) - len(survivors)
    assert killed >= SHARE * (killed + len(unexplained)), [(m.operator, m.change) for m in unexplained]


def test_every_operator_changes_one_place_of_some_kernel() -> None:
    made = [
        (m, KNOWN[name]) for name in ("gemm_static", "norm_of_batch", "smallest_in_rows") for m in mutants(KNOWN[name])
    ]
    assert {m.operator for m, _ in made} == {*OPERATORS}
    for mutant, source in made:
        honest, now = ast.unparse(ast.parse(source)).splitlines(), mutant.source.splitlines()
        assert [a for a, b in zip(honest, now, strict=True) if a != b] and mutant.place != mutant.change


def test_a_mask_a_bound_a_sum_and_a_stride() -> None:
    lines = {(m.operator, m.change) for m in mutants(KNOWN["one_column"])}
    assert ("off by one", "a = tl.load(x + row * K + k, mask=k < K - 1, other=0.0)") in lines
    assert ("mask dropped", "a = tl.load(x + row * K + k)") in lines
    strided = {m.change for m in mutants(KNOWN["transposed_input"]) if m.operator == "strides swapped"}
    assert "strides = (x.stride(1), x.stride(0), z.stride(0), z.stride(1))" in strided
    narrow = [m for m in mutants(KNOWN["one_column"]) if m.operator == "narrow sums"]
    assert len(narrow) == 1 and narrow[0].change.endswith(".to(tl.bfloat16).to(tl.float32)")


def test_a_reason_fits_one_change_only() -> None:
    known = next(m for m in mutants(KNOWN["permuted_rows"]) if m.change.endswith("tl.load(x + source), mask=inside)"))
    assert reason_for("permuted_rows", known)
    assert not reason_for("gelu_rows", known)
    assert not reason_for("permuted_rows", Mutant("off by one", known.place, known.change, known.source))
