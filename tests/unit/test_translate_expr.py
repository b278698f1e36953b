"""Index arithmetic: simplification keeps the value, text reads back, reshapes are exact."""

from __future__ import annotations

import math

from hypothesis import assume, example, given
from hypothesis import strategies as st

from kernelevolve.translate.algebra import reshape_index
from kernelevolve.translate.coordinates import flatten, substitute, unflatten
from kernelevolve.translate.expr import Expr, canonical, const, exact, floordiv, mod, parse, symbol, text

SIZES = {"a": 3, "b": 5, "c": 4}


@st.composite
def expressions(draw: st.DrawFn) -> Expr:
    expr = draw(st.sampled_from([symbol(n) for n in SIZES] + [const(k) for k in (1, 2, 7)]))
    for _ in range(draw(st.integers(0, 5))):
        other = draw(st.sampled_from([symbol(n) for n in SIZES] + [const(k) for k in (1, 2, 3)]))
        step = draw(st.sampled_from(["+", "*", "//", "%"]))
        if step == "+":
            expr = expr + other
        elif step == "*":
            expr = expr * other
        else:
            expr = floordiv(expr, other, {}) if step == "//" else mod(expr, other, {})
    return expr


@given(expressions())
def test_text_evaluates_and_reads_back(expr: Expr) -> None:
    assert eval(text(expr), {}, dict(SIZES)) == expr.evaluate(SIZES)
    assert parse(canonical(expr)) == expr


@given(expressions(), expressions(), st.integers(0, 2))
@example(floordiv(const(2), symbol("a"), {}) + 1, floordiv(const(1), symbol("a"), {}) + 2, 0)  # 1 // a may be 0
def test_substitution_keeps_the_value(expr: Expr, value: Expr, position: int) -> None:
    assume(value.evaluate(SIZES) > 0)  # sizes are
    name = "abc"[position]
    changed = substitute(expr, {name: value}, {})
    assert changed.evaluate(SIZES) == expr.evaluate({**SIZES, name: value.evaluate(SIZES)})


def test_a_split_position_joins_again() -> None:
    a, b, c, i = (symbol(n) for n in ("a", "b", "c", "i"))
    parts = unflatten(i, [a, b, c], {"i": a * b * c})
    assert flatten(parts, [a, b, c]) == i


def test_an_exact_quotient_cancels() -> None:
    c = symbol("c")
    assert exact(c, 16) * 16 == c
    assert exact(c * symbol("h"), c) == symbol("h")


@given(st.data())
def test_reshape_reads_the_same_row_major_position(data: st.DataObject) -> None:
    source = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    total = math.prod(source)
    target: list[int] = []
    while total > 1 and len(target) < 3:
        part = data.draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
        target.append(part)
        total //= part
    target.append(total)
    index = reshape_index([const(s) for s in source], [const(t) for t in target])
    for position in range(math.prod(target)):
        rest, at = position, {}
        for axis in range(len(target) - 1, -1, -1):
            at[f"i{axis}"], rest = rest % target[axis], rest // target[axis]
        found = 0
        for expr, size in zip(index, source, strict=True):
            found = found * size + expr.evaluate(at)
        assert found == position
