"""The distributions that probe how an output depends on single elements, and inputs that are changed one at a time."""

from __future__ import annotations

import math

import pytest
import torch
from judged import HEAD, Bench, problem_of, source_of

from kernelevolve import codec
from kernelevolve.protocol import Case, Description, Patch, Variant
from kernelevolve.tensors import draw, load
from kernelevolve.tensors.describe import describe

TWO = HEAD + (
    "class Model(nn.Module):\n    def forward(self, x, y):\n        return x @ y\n"
    "def get_inputs():\n    return [torch.rand(96, 640), torch.rand(640, 200)]\n"
)


def opened(source: str) -> tuple[Description, object]:
    return describe(problem_of(source), Variant("declared", "full", source)), load.load_module(source)


def drawn(source: str, case: Case) -> list[torch.Tensor]:
    description, module = opened(source)
    return draw.draw_inputs(description, case, "cpu", module)  # type: ignore[arg-type]


def test_one_hot_probes_put_one_element_into_each_row_and_elsewhere_by_chance() -> None:
    seconds = set()
    for seed in range(12):
        x, y = drawn(TWO, Case(seed, "D9"))
        assert torch.equal(x.sum(dim=1), torch.ones(96)) and set(x.unique().tolist()) == {0.0, 1.0}
        at = x.argmax(dim=1)
        assert torch.equal((at[1:] - at[:-1]) % 640, torch.ones(95, dtype=torch.int64))  # a diagonal, shifted
        seconds.add(len(y.unique()) == 2)
    assert seconds == {True, False}


def test_ties_sorted_rows_and_clustered_maxima_are_there() -> None:
    x, _ = drawn(TWO, Case(1, "D10"))
    assert len(x.unique()) <= 5 and 0 < (x == x[:, :1]).all(dim=1).sum().item() < 96
    x, _ = drawn(TWO, Case(1, "D11"))
    rising = (x.diff(dim=1) >= 0).all(dim=1)
    falling = (x.diff(dim=1) <= 0).all(dim=1)
    below = (x < 0).all(dim=1)
    peaked = x.max(dim=1).values > 7
    assert [int(kind.sum()) for kind in (rising, falling, below, peaked)] == [24, 24, 24, 24]
    assert not (rising & falling | below & peaked).any()
    row = x[peaked][0]
    assert row.topk(8).indices.sort().values.diff().max().item() <= 11  # 8 of at most 21 places side by side


def test_special_values_are_few_and_all_there() -> None:
    x, _ = drawn(TWO, Case(1, "D12"))
    assert [int(x.isnan().sum()), int((x == math.inf).sum()), int((x == -math.inf).sum())] == [1, 1, 1]
    small = (x != 0) & (x.abs() < torch.finfo(torch.float32).tiny)
    minus = (x == 0) & torch.signbit(x)
    assert 0.01 < small.float().mean().item() < 0.06 and 0.01 < minus.float().mean().item() < 0.06


def test_a_patched_case_changes_one_input_and_nothing_else() -> None:
    x, y = drawn(TWO, Case(1))
    other, _ = drawn(TWO, Case(9))
    whole = drawn(TWO, Case(1, patches=(Patch("x", "redrawn", 9),)))
    assert torch.equal(whole[0], other) and torch.equal(whole[1], y)
    row = drawn(TWO, Case(1, patches=(Patch("x", "row", 9),)))[0]
    changed = (row != x).any(dim=1)
    assert changed.sum().item() == 1 and torch.equal(row[changed], other[changed])
    places = {draw.row_of((96, 640), seed)[0] for seed in range(200)}
    assert len(places) > 60
    assert draw.row_of((17,), 3)[1] == 3
    assert torch.equal(drawn(TWO, Case(1, patches=(Patch("y", "scaled", -3),)))[1], y / 8)
    spread = drawn(TWO, Case(1, patches=(Patch("x", "expanded"),)))[0]
    assert spread.stride() == (0, 1) and torch.equal(spread[5], x[0])
    case = Case(1, patches=(Patch("x", "row", 9),), cotangents="strided")
    assert codec.from_data(Case, codec.to_data(case)) == case


@pytest.mark.parametrize("layout", ["strided", "expanded"])
def test_cotangents_come_in_other_layouts(layout: str) -> None:
    leaf = torch.zeros(6, 5)
    plain = draw.draw_cotangents(Case(1), "cpu")("out", leaf)
    found = draw.draw_cotangents(Case(1, cotangents=layout), "cpu")("out", leaf)  # type: ignore[arg-type]
    assert not found.is_contiguous() and found.shape == (6, 5)
    assert torch.equal(found[0], plain[0]) and torch.equal(found, plain) == (layout == "strided")


PRODUCT = source_of("return x @ self.w + self.b", "[torch.rand(40, 300)]",
                    "self.w = nn.Parameter(torch.rand(300, 30)); self.b = nn.Parameter(torch.rand(30))")  # fmt: skip


def test_sums_of_small_integers_must_be_exact() -> None:
    bench = Bench(PRODUCT)
    for distribution in ("D8", "D8b"):
        case = Case(2, distribution)
        honest = bench.honest(case)
        assert not bench.failed(case, honest)
        off = [(path, leaf + torch.nn.functional.one_hot(torch.tensor(3), 30) * 1e-4) for path, leaf in honest]
        wrong = bench.failed(case, off)
        assert [c.name for c in wrong] == ["exact"], wrong
        assert "sums of products of small integers" in wrong[0].detail
    case = Case(2, "D1")
    assert not bench.failed(case, [(path, leaf * (1 + 1e-7)) for path, leaf in bench.honest(case)])


def test_inputs_that_the_file_itself_refuses_say_nothing() -> None:
    source = source_of("return x * 2.0", "[torch.rand(40, 300).multinomial(4).float()]")
    bench = Bench(source)
    computed = bench.reference.compute(Case(1, "D11"))  # probabilities below 0
    assert not computed.usable and "probability tensor" in computed.reason
    assert bench.reference.compute(Case(1, "D2")).usable
