"""References that draw random numbers: honest kernels with numbers of their own pass, others fail by a statistic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from court import Court

from kernelevolve import plugins
from kernelevolve.equipment import Workshop
from kernelevolve.evaluate.admission import Gate
from kernelevolve.evaluate.asking import Bounds, Failed, Trial
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import compare
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.structure import examine
from kernelevolve.evaluate.talk import Talk
from kernelevolve.evaluation import Evidence, Verdict
from kernelevolve.judge.statistical import distance, kolmogorov
from kernelevolve.problem import Problem, parse_problem
from kernelevolve.protocol import Case
from kernelevolve.settings import LANES

REFERENCE = """
import torch
import torch.nn as nn

ROWS, WIDTH = 24, 96


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(x + self.bias)


def get_inputs():
    return [torch.randn(ROWS, WIDTH)]


def get_init_inputs():
    return [WIDTH]
"""
HONEST = """
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def drop(x, bias, out, seed, n, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    v = tl.load(x + i, mask=inside) + tl.load(bias + i % width, mask=inside)
    keep = tl.rand(seed, i) >= 0.3
    tl.store(out + i, tl.where(keep, v / 0.7, 0.0), mask=inside)


class ModelNew(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        out = torch.empty_like(x)
        n, seed = x.numel(), (torch.initial_seed() + self.calls) % 2**31
        drop[(triton.cdiv(n, 1024),)](x, self.bias, out, seed, n, x.shape[-1], BLOCK=1024)
        return out
"""
CASES = tuple(Case(seed, d) for seed in range(1, 4) for d in ("declared", "D1"))
WRONG = {
    "p": ("tl.rand(seed, i) >= 0.3", "tl.rand(seed, i) >= 0.5"),
    "scale": ("v / 0.7", "v"),
    "one mask for all rows": ("tl.rand(seed, i)", "tl.rand(seed, i % width)"),
    "zeros": ("tl.where(keep, v / 0.7, 0.0)", "tl.where(keep, 0.0, 0.0)"),
    "input ignored": ("tl.load(x + i, mask=inside) +", "tl.randn(seed + 1, i) +"),
    "rows exchanged": ("tl.load(x + i, mask=inside) +", "tl.load(x + (n - 1 - i), mask=inside) +"),
}


def problem() -> Problem:
    declared = 'mode = "train"\nrandom = "statistical"'
    return parse_problem(REFERENCE, declared, name="drop", suite="folder", path="drop.py")


@pytest.fixture(scope="module")
def court() -> Court:
    return Court(problem())


def test_an_honest_kernel_with_its_own_numbers_passes(court: Court) -> None:
    many = tuple(Case(seed, d) for seed in range(20) for d in ("declared", "D1"))
    assert court.verdict(HONEST, many) == (Verdict.OK_UNTIMED, "40 cases")


@pytest.mark.parametrize("name", WRONG)
def test_another_distribution_is_a_wrong_value(court: Court, name: str) -> None:
    old, new = WRONG[name]
    assert old in HONEST
    verdict, found = court.verdict(HONEST.replace(old, new), CASES)
    assert verdict is Verdict.WRONG_VALUE and "statistical" in found, found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    workshop = Workshop(problem(), device="none")
    yield workshop.bench(tmp_path_factory.mktemp("builds"))
    workshop.close()


def examined(bench: Bench, source: str) -> dict[str, str]:
    """Whether each guard of the lane `accept` held, after two regular cases."""
    guards: dict[str, str] = {}
    description = next(d for d in bench.small() if d.variant.size == "scaled")
    answers = plugins.load("platforms", "h100").device_answers()
    trial = Trial(source, {}, description, "cpu", answers, Bounds(memory_bytes=3 << 30))

    def report(name: str, held: str, detail: str = "") -> None:
        guards[name] = f"{held}: {detail}"

    def then(talk: Talk) -> None:
        examine(talk, LANES["accept"], Seeds(bytes(16)), report)

    seeds = Seeds(bytes(16))
    compare(bench, trial, [seeds.case(f"{i}", "D1") for i in range(2)], Evidence.INTERPRETED, then)
    return guards


def test_guards_that_compare_calls_are_not_run_and_say_why(bench: Bench) -> None:
    guards = examined(bench, HONEST)
    assert guards["first-call"].startswith("held") and guards["state"].startswith("held")
    for name in ("overwrite", "hold", "determinism", "scaling", "single-input"):
        assert guards[name] == "not run: outputs are random: no call can be compared with another"


def test_numbers_that_are_the_same_under_every_seed_are_a_wrong_value(bench: Bench) -> None:
    fixed = HONEST.replace("(torch.initial_seed() + self.calls) % 2**31", "12345")
    with pytest.raises(Failed, match="statistical seeds") as caught:
        examined(bench, fixed)
    assert caught.value.verdict is Verdict.WRONG_VALUE


def test_admission_says_that_no_null_model_was_tried(bench: Bench) -> None:
    found = Gate(bench).admission(("declared", "D1"))
    assert found.admitted and found.distributions == ("declared", "D1") and found.models == 0
    assert any("no null model was tried" in label for label in found.labels)


def test_kolmogorovs_series_has_its_known_values() -> None:
    # lambda = 1.3581 is the 5 % point of the limiting distribution; many elements leave Stephens' terms out.
    size = 10**8
    assert kolmogorov(1.3581 / (size / 2) ** 0.5, size, size) == pytest.approx(0.05, rel=1e-3)
    assert kolmogorov(0.0, 100, 100) == 1.0
    assert distance(torch.arange(4.0), torch.arange(4.0) + 2) == 0.5
