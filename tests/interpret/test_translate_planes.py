"""Products of planes, as rendered from a PyTorch reference: within the strict fp32 budget, and they compile."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernelevolve.platforms.nvidia import H200
from kernelevolve.translate.capture import capture_source
from kernelevolve.translate.first import first_plan
from kernelevolve.translate.ir import Program
from kernelevolve.translate.moves import moves
from kernelevolve.translate.plan import Plan
from kernelevolve.translate.products import planes_costs, planes_pay
from kernelevolve.translate.render import render
from kernelevolve.worker.build import build
from kernelevolve.worker.interpret import interpreting
from kernelevolve.worker.plan import record_plan

REFERENCE = """import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        {layers}

    def forward(self, a, b):
        return {expression}


B, M, N, K = {sizes}


def get_inputs():
    return [torch.randn({a}), torch.randn({b})]


def get_init_inputs():
    return []
"""
SMALL = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32, "SPLIT_LINES": 16}
UNIT = 2.0**-24
NUMBER = itertools.count()
Draw = Callable[[tuple[int, ...], torch.Generator], torch.Tensor]


def reference(expression: str, sizes: tuple[int, ...], a: str, b: str, layers: str = "pass") -> str:
    return REFERENCE.format(expression=expression, sizes=sizes, a=a, b=b, layers=layers)


def captured(source: str) -> Program:
    with contextlib.redirect_stderr(io.StringIO()):
        return capture_source(source)


def with_scheme(program: Program, scheme: str) -> Plan:
    """The plan in which the first product has this scheme, by a move where the first plan has another."""
    plan = first_plan(program, "nvidia")
    found = [plan, *(move.plan for move in moves(program, plan, "compute", ()))]
    return next(p for p in found if any(k.scheme == scheme for k in p.kernels))


def loaded(source: str, folder: Path) -> ModuleType:
    path = folder / f"candidate_{next(NUMBER)}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{path.stem}".replace("-", "_"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def planes_of(source: str, folder: Path, scheme: str = "planes", *, wide: bool = False) -> ModuleType:
    program = captured(source)
    plan = with_scheme(program, scheme)
    if wide:
        plan = replace(plan, kernels=tuple(replace(kernel, wide=True) for kernel in plan.kernels))
    return loaded(render(program, plan, reference_source=source), folder)


def interpreted(module: ModuleType, inputs: list[torch.Tensor], model: torch.nn.Module) -> torch.Tensor:
    module.CHOICE.update({name: value for name, value in SMALL.items() if name in module.KNOBS})
    made = module.ModelNew()
    made.load_state_dict(model.state_dict())
    with torch.no_grad(), interpreting():
        return made(*(x.clone() for x in inputs)).clone()


def model_of(source: str) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    names: dict[str, Callable[..., object]] = {}
    exec(compile(source, "reference.py", "exec"), names)
    torch.manual_seed(0)
    return names["Model"](), names["get_inputs"]()  # type: ignore[return-value]


def check(source: str, folder: Path, draw: Draw | None = None, made: ModuleType | None = None) -> None:
    """The strict fp32 rule: rms within max(2 x PyTorch's, 5e-6), each element within its share of |a| @ |b|."""
    model, inputs = model_of(source)
    rng = torch.Generator().manual_seed(7)
    if draw is not None:
        inputs = [draw(tuple(x.shape), rng) for x in inputs]
    got = interpreted(made or planes_of(source, folder), inputs, model)
    with torch.no_grad():
        own = model(*inputs)
        model.double()
        oracle = model(*(x.double() for x in inputs))
        mass = model(*(x.double().abs() for x in inputs)).abs()
    spread = (oracle - oracle.mean()).square().mean().sqrt()
    wrong, own_wrong = (got.double() - oracle).abs(), (own.double() - oracle).abs()
    rms, own_rms = (float(x.square().mean().sqrt() / spread) for x in (wrong, own_wrong))
    assert rms <= max(2 * own_rms, 5e-6), f"{rms:.2e} against {own_rms:.2e}"
    allowed = (8 * UNIT * (oracle.abs() + mass)).clamp_min(4 * float(own_wrong.max()))
    assert float((wrong / allowed).max()) <= 1


LAYOUTS = {
    "nn": ("torch.matmul(a, b)", "M, K", "K, N"),
    "nt": ("torch.matmul(a, b.T)", "M, K", "N, K"),
    "tn": ("torch.matmul(a.T, b)", "K, M", "K, N"),
    "tt": ("torch.matmul(a.T, b.T)", "K, M", "N, K"),
    "batched": ("torch.bmm(a, b)", "B, M, K", "B, K, N"),
    "scores": ("torch.matmul(a, b.transpose(1, 2))", "B, M, K", "B, N, K"),
    "shared": ("torch.bmm(a, b.unsqueeze(0).expand(B, K, N))", "B, M, K", "K, N"),
    "window": ("torch.matmul(a[:, 1:], b[:-1])", "M, K", "K, N"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_odd_sizes(layout: str, tmp_path: Path) -> None:
    check(reference(LAYOUTS[layout][0], (3, 53, 71, 101), *LAYOUTS[layout][1:]), tmp_path)


@pytest.mark.parametrize("depth", [32, 70, 1000])
def test_depths(depth: int, tmp_path: Path) -> None:
    check(reference("torch.matmul(a, b)", (1, 40, 33, depth), "M, K", "K, N"), tmp_path)


def _student(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    squares = sum(torch.randn(shape, generator=rng) ** 2 for _ in range(3))
    return torch.randn(shape, generator=rng) / (squares / 3).sqrt()  # type: ignore[operator]


def _pareto(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=rng).sign() * (1 - torch.rand(shape, generator=rng)) ** (-1 / 1.5)


def _mixed(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=rng) * 10 ** (8 * torch.rand(shape, generator=rng) - 4)


def _along_k(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """a is (M, K), b is (K, N): the same powers of ten along K in a, their inverses in b, so that all terms matter."""
    depth = 96
    powers = 10 ** (6 * torch.rand(depth, generator=torch.Generator().manual_seed(3)) - 3)
    values = torch.randn(shape, generator=rng)
    return values * powers if shape[1] == depth else values / powers[:, None]


DRAWS: dict[str, Draw] = {
    "uniform": lambda shape, rng: torch.rand(shape, generator=rng),
    "student": _student,
    "pareto": _pareto,
    "mixed": _mixed,
    "along-k": _along_k,
    "large": lambda shape, rng: 1e17 * torch.randn(shape, generator=rng),
    "small": lambda shape, rng: 1e-14 * torch.randn(shape, generator=rng),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_distributions(kind: str, tmp_path: Path) -> None:
    check(reference("torch.matmul(a, b)", (1, 48, 64, 96), "M, K", "K, N"), tmp_path, DRAWS[kind])


@pytest.mark.parametrize("scheme", ["planes", "tiles"])
@pytest.mark.parametrize("layout", ["nn", "scores"])
def test_wide_index_arithmetic(scheme: str, layout: str, tmp_path: Path) -> None:
    source = reference(LAYOUTS[layout][0], (2, 40, 33, 70), *LAYOUTS[layout][1:])
    check(source, tmp_path, made=planes_of(source, tmp_path, scheme, wide=True))


def test_batched_tiles(tmp_path: Path) -> None:
    source = reference("torch.bmm(a, b)", (3, 40, 33, 70), "B, M, K", "B, K, N")
    check(source, tmp_path, made=planes_of(source, tmp_path, "tiles"))


@pytest.mark.parametrize("expression", ["torch.matmul(a, b)", "torch.relu(torch.matmul(a, b) + 1.0)"])
def test_long_sums_are_cut_into_parts(expression: str, tmp_path: Path) -> None:
    source = reference(expression, (1, 20, 24, 8195), "M, K", "K, N")
    program = captured(source)
    plan = with_scheme(program, "planes")
    assert [k.kind for k in plan.kernels] == ["contraction", "reduction"]
    module = loaded(render(program, plan, reference_source=source), tmp_path)
    check(source, tmp_path, made=module)


def test_what_follows_is_fused(tmp_path: Path) -> None:
    expression = "F.gelu(self.linear(a)) * 0.5 + b"
    source = reference(expression, (1, 40, 72, 96), "M, K", "N", "self.linear = nn.Linear(96, 72)")
    program = captured(source)
    plan = with_scheme(program, "planes")
    assert [k.scheme for k in plan.kernels] == ["planes"]
    check(source, tmp_path)


def test_infinities_and_nan_as_in_fp32(tmp_path: Path) -> None:
    source = reference("torch.matmul(a, b)", (1, 48, 64, 96), "M, K", "K, N")
    model, (a, b) = model_of(source)
    a[3, 5], a[4, 7], a[7, 1], a[9] = float("inf"), float("nan"), -float("inf"), 0.0
    b[2, 60], b[5, 11], b[5, 12], b[50, 20] = -float("inf"), 0.0, 1e-30, float("nan")
    a[3, 6:] *= 1e-20
    got, own = interpreted(planes_of(source, tmp_path), [a, b], model), model(a, b)
    assert torch.equal(got.isnan(), own.isnan())
    infinite = own.isinf()
    assert torch.equal(got.isinf(), infinite)
    assert torch.equal(got[infinite], own[infinite])
    finite = own.isfinite()
    assert bool(infinite.any()) and bool(finite.any())
    torch.testing.assert_close(got[finite], own[finite], rtol=1e-4, atol=1e-4)


def test_compiles_for_hopper_without_spills(tmp_path: Path) -> None:
    """At full size: bulk copies, tensor cores, and no op of PyTorch's but allocations."""
    source = reference("torch.relu(torch.bmm(a, b))", (4, 512, 1024, 1024), "B, M, K", "B, K, N")
    module = planes_of(source, tmp_path)
    with torch.device("meta"):
        inputs = [torch.empty(4, 512, 1024), torch.empty(4, 1024, 1024)]
    _, recording = record_plan(
        module.ModelNew(), (inputs, {}), workload="full", platform=H200.name, target=H200.target,
        answers=H200.device_answers(), device_index=17,
    )  # fmt: skip
    assert recording.forbidden == []
    found = [build(c, H200.target, H200.figures) for c in recording.compilables]
    assert len(found) == 3
    assert [r.spill_bytes for r in found] == [0, 0, 0]


def test_planes_where_they_pay() -> None:
    square = captured(reference("torch.matmul(a, b)", (1, 4096, 4096, 4096), "M, K", "K, N"))
    shallow = captured(reference("torch.matmul(a, b)", (1, 32768, 32768, 32), "M, K", "K, N"))
    assert [k.scheme for k in first_plan(square, "nvidia").kernels] == ["planes"]
    assert [k.scheme for k in first_plan(square, "amd").kernels] == ["tiles"]
    assert [k.scheme for k in first_plan(square, "nvidia", allow_tf32=True).kernels] == ["tiles"]
    assert [k.scheme for k in first_plan(shallow, "nvidia").kernels] == ["tiles"]
    assert planes_pay(128, 512, 2048, 1024)
    assert not planes_pay(1, 64, 64, 4096)


def test_costs_count_what_the_splits_move() -> None:
    left, right, product = planes_costs(64 * 128, 128 * 32, 2.0 * 64 * 32 * 128)
    assert (left.bytes_read, left.bytes_written) == (4 * 64 * 128, 4 * 64 * 128 + 4 * 64 * 2)
    assert product.bytes_read == product.bytes_reused == left.bytes_written + right.bytes_written
    assert product.flops == 3 * 2.0 * 64 * 32 * 128


def test_moves_lead_from_one_scheme_to_the_other() -> None:
    program = captured(reference("torch.matmul(a, b)", (1, 4096, 4096, 4096), "M, K", "K, N"))
    plan = first_plan(program, "nvidia")
    there = next(m.plan for m in moves(program, plan, "bandwidth", ()) if m.plan.kernels[0].scheme == "tiles")
    assert "PRECISION" in dict(there.kernels[0].knobs)
    back = [m.plan.key() for m in moves(program, there, "compute", ())]
    assert plan.key() in back
