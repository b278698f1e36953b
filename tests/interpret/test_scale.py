"""Problems made small for the CPU: only sizes change, the text keeps its lines, the reference still says something."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve.problem import Problem, parse_problem
from kernelevolve.suites.recsys import Recsys
from kernelevolve.tensors import scale as scaling
from kernelevolve.tensors.probe import probe
from kernelevolve.tensors.scale import Budget, literals, replace, scale

HEAD = "import torch\nimport torch.nn as nn\n"
BUDGET = Budget()
KERNELBENCH = Path(__file__).parents[2] / ".kernelbench" / "KernelBench"


def problem_of(source: str) -> Problem:
    return parse_problem(source, None, name="p", suite="s", path="p.py")


def shapes(source: str) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for _, t in probe(source, problem_of(source)).inputs]


def test_equal_values_scale_together_and_lines_stay() -> None:
    source = HEAD + (
        "rows, depth = 4096, 1024 * 8  # two sizes\n"
        "class Model(nn.Module):\n    def forward(self, a, b):\n        return a @ b\n"
        "def get_inputs():\n    return [torch.rand(rows, depth), torch.rand(8192, 2048)]\n"
    )
    made = scale(source, problem_of(source), BUDGET)
    (a, b), (c, d) = shapes(made.scaled), shapes(made.ragged)
    assert a[1] == b[0]
    assert BUDGET.excess(made.cost) <= 1
    assert min(*a, *b) >= 8
    assert len({*c, *d}) == 3  # rows, depth and columns differ in the ragged variant
    assert all(n % 2 for n in (*c, *d))
    assert made.scaled.splitlines()[3:7] == source.splitlines()[3:7]
    assert f"8192 -> {a[1]} (lines 3, 8)" in made.changes
    assert made.labels == ()


def test_divisibility_is_found_out() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def __init__(self, c, g):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(c, c * 2, 3, groups=g)\n        self.norm = nn.GroupNorm(g, c * 2)\n"
        "    def forward(self, x):\n        return self.norm(self.conv(x))\n"
        "batch = 64\nc = 96\ng = 12\nh = 128\n"
        "def get_inputs():\n    return [torch.rand(batch, c, h, h)]\ndef get_init_inputs():\n    return [c, g]\n"
    )
    made = scale(source, problem_of(source), BUDGET)
    for text in (made.scaled, made.ragged):
        (batch, channels, height, _), *_ = shapes(text)
        assert channels % 12 == 0
        assert height >= 4
        assert batch >= 2
    assert BUDGET.excess(made.cost) <= 1


def test_sizes_in_proportion_are_scaled_as_a_pair() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def __init__(self, n):\n        super().__init__()\n"
        "        self.norm = nn.LayerNorm(n)\n"
        "    def forward(self, x):\n        return self.norm(torch.cat([x, x], dim=-1))\n"
        "width = 4096\n"
        "def get_inputs():\n    return [torch.rand(512, width)]\ndef get_init_inputs():\n    return [8192]\n"
    )
    made = scale(source, problem_of(source), Budget(largest=1 << 12))
    assert made.cost.largest <= 1 << 12
    assert shapes(made.scaled)[0][1] < 4096


def test_the_small_output_still_depends_on_the_input() -> None:
    """With one channel per group the mean of a group norm is its bias: such a size would say nothing."""
    source = HEAD + (
        "class Model(nn.Module):\n    def __init__(self, c, g):\n        super().__init__()\n"
        "        self.norm = nn.GroupNorm(g, c)\n"
        "    def forward(self, x):\n        return self.norm(x).mean(dim=(1, 2, 3))\n"
        "batch = 128\nc = 32\nh = 128\n"
        "def get_inputs():\n    return [torch.rand(batch, c, h, h)]\ndef get_init_inputs():\n    return [c, 8]\n"
    )
    assert shapes(scale(source, problem_of(source), BUDGET).scaled)[0][1] > 8


def test_numbers_that_are_no_sizes_are_left_alone() -> None:
    source = HEAD + (
        "modulus = 1000003\nbits = 2**62\nbatch = 65536\n"
        "class Model(nn.Module):\n    def forward(self, ids):\n        return torch.remainder(ids, modulus)\n"
        "def get_inputs():\n    return [torch.randint(-bits, bits, (batch, 64))]\n"
    )
    made = scale(source, problem_of(source), BUDGET)
    for text in (made.scaled, made.ragged):
        assert "modulus = 1000003\nbits = 2**62\n" in text


def test_an_index_stays_inside_its_table() -> None:
    source = HEAD + (
        "class Model(nn.Module):\n    def __init__(self, n, d):\n        super().__init__()\n"
        "        self.table = nn.Embedding(n, d)\n"
        "    def forward(self, ids):\n        return self.table(ids)\n"
        "n = 100000\nd = 256\n"
        "def get_inputs():\n    return [torch.randint(0, n, (4096,))]\ndef get_init_inputs():\n    return [n, d]\n"
    )
    made = scale(source, problem_of(source), BUDGET)
    assert BUDGET.excess(made.cost) <= 1


@pytest.mark.parametrize("name", Recsys().names())
def test_shipped_problems_fit_the_budget(name: str) -> None:
    problem = Recsys().load(name)
    made = scale(problem.source, problem, BUDGET)
    assert BUDGET.excess(made.cost) <= 1
    assert made.ragged


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=6), st.integers(2, 64))
@settings(max_examples=50, deadline=None)
def test_replacing_changes_nothing_but_the_numbers(values: list[int], divisor: int) -> None:
    source = "".join(f"a{i} = {v}  # ä {v}\n" for i, v in enumerate(values)) + "name = 'x64'\n"
    found = literals(source)
    assert [n.value for n in found] == [v for v in values if v >= scaling.LEAST]
    sizes = {n.value: max(2, n.value // divisor) for n in found}
    text = replace(source, sizes)
    written = [ast.literal_eval(n.value) for n in ast.parse(text).body]  # type: ignore[attr-defined]
    assert written == [sizes.get(v, v) if v >= scaling.LEAST else v for v in values] + ["x64"]
    assert [line.split("#")[1:] for line in text.splitlines()] == [line.split("#")[1:] for line in source.splitlines()]


@pytest.mark.skipif(not KERNELBENCH.is_dir(), reason="no checkout of KernelBench")
@pytest.mark.parametrize("name", ["level1/10", "level1/95", "level2/3", "level2/23", "level2/34", "level2/80"])
def test_kernelbench_problems_fit_the_budget(name: str) -> None:
    path = next(KERNELBENCH.glob(f"{name}_*.py"))
    source = path.read_text()
    made = scale(source, problem_of(source), BUDGET)
    assert BUDGET.excess(made.cost) <= 1
    assert made.ragged
