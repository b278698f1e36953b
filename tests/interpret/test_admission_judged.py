"""Null models and honest controls before the acceptance rule: each where it passes, and where it must not."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judged import TENSOR, Bench, problem_of, source_of

from kernelevolve import Workshop
from kernelevolve.evaluate.admission import Gate
from kernelevolve.judge.admission import try_distribution
from kernelevolve.judge.nulls import round_significand
from kernelevolve.protocol import NullModel, Tried

PRODUCT = source_of("return x @ w", "[torch.rand(96, 128), torch.rand(128, 80)]", arguments="x, w")
LINEAR = source_of("return torch.relu(self.fc(x))", "[torch.rand(64, 96)]", "self.fc = nn.Linear(96, 48)")
NORM = source_of("return self.norm(x)", "[torch.rand(64, 256)]", "self.norm = nn.LayerNorm(256)")
SOFTMAX = source_of("return torch.softmax(x, dim=1)", "[torch.rand(64, 1000)]")
LOSS = source_of("return ((x - y) ** 2).mean()", "[torch.rand(200, 100), torch.rand(200, 100)]", arguments="x, y")
ARGMAX = source_of("return x.argmax(1)", "[torch.rand(64, 100)]")
CONV = source_of("return self.conv(x)", "[torch.rand(2, 8, 16, 16)]", "self.conv = nn.Conv2d(8, 12, 3)")
RELU = source_of("return torch.relu(x)", "[torch.rand(64, 128)]")
SQUARE, TALL = "[torch.rand(64, 64)]", "[torch.rand(256, 64)]"


def tried(source: str, distribution: str = "D1", sidecar: str | None = None) -> Tried:
    return try_distribution(Bench(source, sidecar).reference, distribution)


def passing(found: Tried) -> list[str]:
    assert not found.unusable
    return [m.name for m in found.models if m.outcome == "accepted" and m.kind != "control"]


def controls(found: Tried) -> list[NullModel]:
    return [m for m in found.models if m.kind == "control"]


@pytest.mark.parametrize("distribution", ["declared", "D1", "D6"])
@pytest.mark.parametrize("source", [PRODUCT, LINEAR, NORM, SOFTMAX, LOSS, ARGMAX, CONV])
def test_honest_problems_are_passed_by_honest_kernels_alone(source: str, distribution: str) -> None:
    found = tried(source, distribution)
    assert passing(found) == []
    assert [m for m in controls(found) if m.outcome != "accepted"] == []
    names = [m.name for m in found.models]
    assert {"zeros", "constant mean", "random of the same mean and deviation", "output for another seed"} <= set(names)
    assert any(n.startswith("first half of x along dim 0") for n in names)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("source", [PRODUCT, LINEAR, NORM])
def test_every_declared_precision_tells_itself_from_the_grades_below(source: str, precision: str) -> None:
    found = tried(source.replace("])", "])"), "D1", f'precision = "{precision}"')
    lower = [m for m in found.models if m.kind == "precision"]
    assert len(lower) == 2
    assert [m.name for m in lower if m.outcome != "rejected"] == []
    assert [m for m in controls(found) if m.outcome != "accepted"] == []
    assert found.tolerances[0].precision == precision


@pytest.mark.parametrize(
    ("name", "forward", "inputs", "distribution"),
    [
        ("input copy x", "return torch.relu(x)", SQUARE, "declared"),
        ("mean of each row", "return x.mean(1, keepdim=True) + 1e-8 * x", SQUARE, "D1"),
        ("rank-1 fit", "return x[:, :1] * x[:1] + 1e-8 * x", SQUARE, "D1"),
        ("output for another seed", "return torch.arange(4096.).reshape(64, 64).sin() + 1e-8 * x", SQUARE, "D1"),
        ("first half of x along dim 1, scaled", "return x[:, :32].sum(1) + 1e-8 * x.sum(1)", TALL, "D1"),
        ("last 16 of dim 1 of out left out", "return x * torch.where(torch.arange(64) < 48, 1., 1e-9)", SQUARE, "D1"),
        ("tf32", "return torch.softmax(x, 1)", "[torch.rand(64, 1000)]", "D3"),
    ],
)  # fmt: skip
def test_each_null_model_passes_where_the_work_does_not_show(
    name: str, forward: str, inputs: str, distribution: str
) -> None:
    assert name in passing(tried(source_of(forward, inputs), distribution))


def test_a_copy_fails_where_the_op_changes_its_input() -> None:
    assert passing(tried(RELU, "D1")) == []
    assert passing(tried(RELU, "D2")) == ["input copy x"]


@pytest.mark.parametrize(
    "forward",
    [
        "return x[:, :1] * x[:1]",  # of rank 1 by construction
        "return x.mean(1, keepdim=True).expand(64, 64).contiguous()",  # constant rows by construction
        "return x * (torch.arange(64) < 40)",  # the last columns are zero by construction
        "return x[:, :32].cumsum(1)",  # half of the input is never read
    ],
)
def test_what_is_exactly_right_is_no_null_model(forward: str) -> None:
    assert passing(tried(source_of(forward, SQUARE))) == []


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        ("return x - x", "identically zero"),
        ("return torch.full_like(x, 3.0) + 1e-9 * x", "nearly constant"),
        ("return x / 0.0 * 0.0", "nowhere finite"),
        ("return x[:0]", "is empty"),
    ],
)
def test_an_output_that_says_nothing_is_named(forward: str, reason: str) -> None:
    found = tried(source_of(forward, SQUARE))
    assert reason in found.unusable
    assert found.models == ()


def test_nan_where_the_reference_has_it_is_a_label() -> None:
    found = tried(source_of("return torch.where(x > 0.9, torch.nan, x) * 2", "[torch.rand(64, 64)]"), "declared")
    assert passing(found) == []
    (label,) = found.labels
    assert "of out is NaN or infinite by the reference (declared)" in label


def test_one_of_two_outputs_that_needs_no_kernel_is_a_label() -> None:
    found = tried(source_of("return x @ x.T, torch.relu(x)", "[torch.rand(64, 48)]"), "declared")
    assert passing(found) == []
    assert found.labels == ("out[1]: input copy x would do (declared)",)


def test_an_honest_kernel_one_unit_off_passes_where_the_output_hardly_varies() -> None:
    found = tried(source_of("return torch.sigmoid(x)", "[torch.rand(64, 64)]"), "D3")
    assert [m.outcome for m in controls(found)] == ["accepted", "accepted"]
    assert found.tolerances[0].decided == "2 units in the last place"


def test_a_reference_that_changes_from_run_to_run_fails_its_own_control() -> None:
    source = source_of("self.n += 1; return x * (1 + 1e-4 * self.n)", SQUARE, "self.n = 0")
    again = controls(tried(source))[0]
    assert (again.name, again.outcome) == ("the reference again", "rejected")
    assert "rms" in again.detail


def test_gradients_meet_null_models_too() -> None:
    found = tried(LINEAR, "D1", 'direction = "backward"')
    assert passing(found) == []
    assert [m for m in controls(found) if m.outcome != "accepted"] == []
    assert {"grad:x", "grad:fc.weight", "grad:fc.bias"} <= {t.output for t in found.tolerances}


def test_the_tolerance_names_dtype_precision_and_the_term_that_decides() -> None:
    (limit,) = tried(PRODUCT, "D1").tolerances
    assert (limit.output, limit.dtype, limit.precision, limit.rule) == ("out", "float32", "fp32-strict", "rms")
    assert limit.decided == "the floor of fp32-strict and float32"
    assert limit.relative == pytest.approx(5e-6, rel=0.05)
    assert tried(ARGMAX).tolerances[0].rule == "positions"


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=64), st.integers(2, 24))
def test_rounding_keeps_the_bits_that_it_should(numbers: list[float], bits: int) -> None:
    exact = torch.tensor(numbers, dtype=torch.float32)
    rounded = round_significand(exact, bits)
    assert torch.equal(rounded.isfinite(), exact.isfinite())
    assert torch.equal(torch.nan_to_num(round_significand(rounded, bits)), torch.nan_to_num(rounded))
    for before, after in zip(exact.tolist(), rounded.tolist(), strict=True):
        if math.isfinite(before) and abs(before) >= torch.finfo(torch.float32).smallest_normal:
            largest = abs(after) == torch.finfo(torch.float32).max or abs(before) > 3e38
            assert largest or abs(after - before) <= 2.0**-bits * abs(before)
            assert math.frexp(after)[0] * 2**bits == int(math.frexp(after)[0] * 2**bits) or largest


def as_bf16(values: TENSOR) -> TENSOR:
    return values.bfloat16().float()


def test_eight_bits_are_bfloat16() -> None:
    exact = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_significand(exact, 8), as_bf16(exact))


def test_sizes_are_looked_at_in_turn_and_found_again_without_the_judge(tmp_path: Path) -> None:
    shop = Workshop(problem_of(RELU), device="none")
    try:
        bench = shop.bench(tmp_path)
        places = ("cpu", "cpu:0")  # the second one stands for a device: it has the full size
        first = Gate(bench, places=places).admission(("declared", "D1"))
        assert (first.sizes, first.distributions) == (("declared/scaled", "declared"), ("D1",))
        assert list(first.dropped) == ["declared"]
        bench.judged = None  # type: ignore[assignment]  # whoever asked would fail
        assert Gate(bench, places=places).admission(("declared", "D1")) == first
        assert Gate(bench).admitted(("D1",)) == ("D1",)
    finally:
        shop.close()


def kernelevolve(*arguments: str) -> tuple[int, dict[str, object], str]:
    """A real process of the command: exit code, result object, what people read."""
    command = [sys.executable, "-m", "kernelevolve", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1]), done.stderr


def written(folder: Path, source: str) -> str:
    path = folder / "problem.py"
    path.write_text(source)
    return str(path)


def test_the_command_admits_a_problem_and_says_what_it_drops(tmp_path: Path) -> None:
    code, result, text = kernelevolve(
        "admit", written(tmp_path, RELU), *["--distribution=declared", "--distribution=D1"]
    )
    assert (code, result["admitted"], result["verdict"]) == (0, True, None)
    admission = result["admission"]
    assert isinstance(admission, dict)
    assert admission["distributions"] == ["D1"]
    assert admission["dropped"] == {"declared": "the null model 'input copy x' passes"}
    assert "judged on D1" in text
    assert "out, float32, fp32-strict: rms error up to" in text


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        ("return x", "'input copy x' passes on all of them; the output is the input"),
        ("self.n += 1; return x * (1 + 1e-4 * self.n)", "two runs of the reference differ"),
    ],
)
def test_the_command_refuses_with_reason_fix_and_code(tmp_path: Path, forward: str, words: str) -> None:
    path = written(tmp_path, source_of(forward, SQUARE, "self.n = 0"))
    code, result, text = kernelevolve("admit", path, "--distribution=declared", "--distribution=D1")
    assert (code, result["admitted"], result["verdict"]) == (3, False, "TASK_INVALID")
    assert result["fix"]
    assert words in text


ZEROS = """import torch
import triton
import triton.language as tl

@triton.jit
def zeros(out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.zeros([BLOCK], tl.float32), mask=at < n)

class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        zeros[(triton.cdiv(x.numel(), 1024),)](out, x.numel(), BLOCK=1024)
        return out
"""


def test_a_refused_problem_begins_no_run_unless_it_is_asked_for_and_then_it_shows(tmp_path: Path) -> None:
    problem = written(tmp_path, source_of("return x - x", SQUARE))
    kernel = tmp_path / "kernel.py"
    kernel.write_text(ZEROS)
    folder = tmp_path / "run"
    common = ["evaluate", str(kernel), "--problem", problem, "--effort=quick", "--rung=interpret", "--device=none"]
    common += ["--out", str(folder)]
    code, result, text = kernelevolve(*common)
    assert (code, result["verdict"]) == (3, "TASK_INVALID")
    assert "identically zero on all of them; scale inputs or weights" in text
    assert "--admit-anyway, which is recorded with the run" in text
    assert not folder.exists()
    code, result, text = kernelevolve(*common, "--admit-anyway")
    assert (code, result["admit_anyway"]) == (0, True)
    assert "ADMITTED ANYWAY, as asked: no distribution of inputs" in text
    code, result, text = kernelevolve("show", str(folder))
    assert code == 0
    assert result["admit_anyway"] is True
    assert "ADMITTED ANYWAY, as asked with --admit-anyway: no distribution of inputs" in text
