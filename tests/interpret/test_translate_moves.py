"""Moves: each one changes the kernel, keeps its result at other sizes, and compiles at full size.

Plans are made at full size, where a device is filled and every kind of move is offered; the candidates then run at
small, odd sizes.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import itertools
import random
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernelevolve.evaluation import Resources
from kernelevolve.platforms.accelerator import Accelerator
from kernelevolve.platforms.amd import MI300X, MI350X
from kernelevolve.platforms.nvidia import H200
from kernelevolve.propose.diagnose import LIMITS
from kernelevolve.translate.capture import Rules, capture_source
from kernelevolve.translate.first import ON_CHIP, first_plan, precisions
from kernelevolve.translate.ir import Program
from kernelevolve.translate.moves import FAMILIES, Move, moves
from kernelevolve.translate.plan import Plan
from kernelevolve.translate.render import render
from kernelevolve.worker.build import build
from kernelevolve.worker.interpret import interpreting
from kernelevolve.worker.plan import record_plan

REFERENCE = """import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    def forward(self, {names}):
        return {expression}


B, M, N, K = {sizes}


def get_inputs():
    return [{inputs}]


def get_init_inputs():
    return []
"""
#: Knobs with which the interpreter is fast and every loop has several steps.
SMALL = {
    "BLOCK": 16, "BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, "BLOCK_ROWS": 8, "BLOCK_COLUMNS": 8, "SUM_BLOCK": 32,
    "COLUMNS": 16, "PARTS": 4, "PRECISION": "ieee", "PER_UNIT": 1, "SPLIT_LINES": 16, "num_warps": 1,
}  # fmt: skip
#: A device with so few units that a persistent grid has several turns.
ANSWERS = {"multi_processor_count": 3}
PLATFORMS = {"nvidia": H200, "amd": MI300X}
NUMBER = itertools.count()


@dataclass(frozen=True)
class Case:
    """A reference at full size and at a small one.

    Attributes:
        full, small: B, M, N, K.
        expects: parts of the names of moves that must be offered.
    """

    expression: str
    inputs: tuple[str, ...]
    full: tuple[int, int, int, int]
    small: tuple[int, int, int, int]
    expects: tuple[str, ...]
    platform: str = "nvidia"

    def source(self, sizes: tuple[int, int, int, int]) -> str:
        inputs = ", ".join(f"torch.randn({shape})" for shape in self.inputs)
        names = ", ".join("abc"[: len(self.inputs)])
        return REFERENCE.format(names=names, expression=self.expression, sizes=sizes, inputs=inputs)


CASES = {
    "pointwise": Case("F.gelu(a) * b", ("M, N", "N"), (1, 4096, 8192, 1), (1, 7, 33, 1),
                      ("persistent", "8 elements per thread", "16 elements per thread")),
    "transposed read": Case("a.T + b", ("M, N", "N, M"), (1, 4096, 8192, 1), (1, 19, 21, 1), ("persistent",)),
    "softmax": Case("F.softmax(a, dim=1)", ("M, N",), (1, 4096, 8192, 1), (1, 5, 37, 1),
                    ("to looped", "to split", "several rows")),
    "long rows": Case("F.softmax(a, dim=1)", ("M, N",), (1, 512, 98304, 1), (1, 5, 37, 1),
                      ("to split", "16 elements per thread")),
    "few rows": Case("F.layer_norm(a, a.shape[1:])", ("M, N",), (1, 64, 1 << 20, 1), (1, 3, 70, 1),
                     ("split to one program", "persistent", "last elements first")),
    "columns": Case("a.max(dim=1)[0] * a.mean(dim=1)", ("B, M, N",), (16, 512, 1024, 1), (2, 21, 35, 1),
                    ("to one_pass", "a kernel of its own")),
    "product": Case("torch.relu(torch.matmul(a, b))", ("M, K", "K, N"), (1, 4096, 4096, 1024), (1, 35, 50, 40),
                    ("planes to tiles", "persistent", "tiles in rows", "tiles in columns", "tiles of 64 x 64 x 64")),
    "batched product": Case("torch.bmm(a, b)", ("B, M, K", "B, K, N"), (64, 512, 512, 256), (3, 35, 20, 24),
                            ("products by bf16x6", "persistent", "tiles in rows"), "amd"),
    "long sums": Case("torch.bmm(a, b) * 0.5 + c", ("B, M, K", "B, K, N", "N"), (2, 96, 64, 3072), (2, 19, 21, 70),
                      ("parts to tiles", "parts to planes", "products by")),
}  # fmt: skip


@cache
def captured(name: str) -> Program:
    case = CASES[name]
    with contextlib.redirect_stderr(io.StringIO()):
        return capture_source(case.source(case.full))


@cache
def offered(name: str) -> tuple[Plan, tuple[Move, ...]]:
    """The first plan and its moves."""
    plan = first_plan(captured(name), CASES[name].platform)
    return plan, tuple(moves(captured(name), plan, "bandwidth", ()))


def rendered(name: str, plan: Plan) -> str:
    case = CASES[name]
    return render(captured(name), Plan.from_json(plan.to_json()), reference_source=case.source(case.full))


def loaded(source: str, folder: Path) -> ModuleType:
    path = folder / f"candidate_{next(NUMBER)}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"moves_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def error_at_small_size(name: str, plan: Plan, folder: Path) -> float:
    """The largest rms error relative to the rms of fp64 PyTorch."""
    names: dict[str, object] = {}
    exec(compile(CASES[name].source(CASES[name].small), "reference.py", "exec"), names)
    torch.manual_seed(0)
    model, inputs = names["Model"](), names["get_inputs"]()  # type: ignore[operator]
    module = loaded(rendered(name, plan), folder)
    for knob in module.KNOBS:
        own = [s for s in SMALL if knob == s or (knob.endswith(f"_{s}") and knob != s)]
        if own:
            module.CHOICE[knob] = SMALL[max(own, key=len)]
    with torch.no_grad():
        want = model.double()(*(x.double() for x in inputs))
        with interpreting(device_answers=ANSWERS):
            got = module.ModelNew()(*(x.clone() for x in inputs)).clone()
    return float((got.double() - want).square().mean().sqrt() / want.square().mean().sqrt())


def searched(source: str) -> str:
    """What a tuner makes of a candidate: the source with each knob's values as a set."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.List):
            node.elts.sort(key=ast.dump)
    return ast.unparse(tree)


@pytest.mark.parametrize("name", CASES)
def test_moves_are_offered_and_change_the_source(name: str) -> None:
    plan, found = offered(name)
    missing = [part for part in CASES[name].expects if not any(part in move.name for move in found)]
    assert missing == [], [move.name for move in found]
    before = searched(rendered(name, plan))
    same = [move.name for move in found if searched(rendered(name, move.plan)) == before]
    assert same == []
    assert len({searched(rendered(name, move.plan)) for move in found}) == len(found)
    for move in found:
        assert move.helps and set(move.helps) <= LIMITS.keys(), move.name
        assert move.reason and not move.reason.endswith("."), move.name


@pytest.mark.parametrize("name", CASES)
def test_moves_keep_the_result(name: str, tmp_path: Path) -> None:
    plan, found = offered(name)
    errors = {move.name: error_at_small_size(name, move.plan, tmp_path) for move in found}
    errors["first"] = error_at_small_size(name, plan, tmp_path)
    assert {n: e for n, e in errors.items() if not e <= 5e-6} == {}


@pytest.mark.parametrize("name", CASES)
def test_moves_keep_the_result_with_wide_index_arithmetic(name: str, tmp_path: Path) -> None:
    for move in offered(name)[1]:
        wide = replace(move.plan, kernels=tuple(replace(kernel, wide=True) for kernel in move.plan.kernels))
        assert error_at_small_size(name, wide, tmp_path) <= 5e-6, move.name


@pytest.mark.parametrize("name", CASES)
def test_walks_of_moves_keep_the_result(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    plan, walked = offered(name)[0], []
    for _ in range(4):
        found = moves(captured(name), plan, "unknown", ())
        move = rng.choice(found)
        walked.append(move.name)
        assert searched(rendered(name, move.plan)) != searched(rendered(name, plan)), walked
        plan = move.plan
        assert error_at_small_size(name, plan, tmp_path) <= 5e-6, walked


def compile_at_full_size(name: str, plan: Plan, platform: Accelerator, folder: Path) -> list[Resources]:
    module = loaded(rendered(name, plan), folder)
    names: dict[str, object] = {}
    exec(compile(CASES[name].source(CASES[name].full), "reference.py", "exec"), names)
    with torch.device("meta"):
        inputs = names["get_inputs"]()  # type: ignore[operator]
    index = 31 + (H200, MI300X, MI350X).index(platform)
    _, recording = record_plan(
        module.ModelNew(), (inputs, {}), workload="full", platform=platform.name, target=platform.target,
        answers=platform.device_answers(), device_index=index,
    )  # fmt: skip
    assert recording.forbidden == []
    return [build(c, platform.target, platform.figures) for c in recording.compilables]


@pytest.mark.parametrize("name", CASES)
def test_moves_compile_at_full_size(name: str, tmp_path: Path) -> None:
    platform = PLATFORMS[CASES[name].platform]
    for move in offered(name)[1]:
        assert compile_at_full_size(name, move.plan, platform, tmp_path), move.name


@pytest.mark.parametrize("part", [MI300X, MI350X], ids=lambda part: part.name)
def test_taking_operands_apart_costs_what_the_planner_says_on_amd(part: Accelerator, tmp_path: Path) -> None:
    plan = first_plan(captured("batched product"), part.name)
    (kernel,) = plan.kernels
    assert kernel.knob("PRECISION") == precisions(part.name, allow_tf32=False)
    counts: dict[str, tuple[int, int]] = {}
    for scheme in kernel.knob("PRECISION"):
        alone = plan.with_kernel(kernel.with_knob("PRECISION", (scheme,)))
        (made,) = compile_at_full_size("batched product", alone, part, tmp_path)
        matrix = made.instructions["matrix"]
        counts[scheme] = matrix, sum(n for kind, n in made.instructions.items() if kind in ("fma", "integer", "other"))
    assert min(matrix for matrix, _ in counts.values()) > 0, counts
    # fp32 keeps the matrix unit busy for 64 cycles per instruction, bf16 for 32; a vector instruction takes 4.
    more = counts["bf16x6"][1] - counts["ieee"][1]
    plain, apart = 64 * counts["ieee"][0], max(32 * counts["bf16x6"][0], 4 * more)
    assert kernel.knob("PRECISION")[0] == ("ieee" if plain < apart else "bf16x6"), counts


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_first_tiles_of_narrow_products_fit_on_chip(dtype: str) -> None:
    case = CASES["product"]
    source = case.source((1, 4096, 4096, 4096))
    with contextlib.redirect_stderr(io.StringIO()):
        program = capture_source(source, rules=Rules(precision=dtype, mode="as-built"))
    for platform in (H200, MI300X):
        (kernel,) = first_plan(program, platform.name).kernels
        tile = tuple(kernel.knob(name)[0] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
        held, in_registers = ON_CHIP[platform.vendor]
        staged = (max(kernel.knob("num_stages")[0] - in_registers, 1)) * (tile[0] + tile[1]) * tile[2] * 2
        assert staged <= held <= platform.figures.shared_bytes_per_block


def test_what_is_meant_for_the_diagnosis_comes_first_and_what_was_tried_does_not_come_again() -> None:
    plan, found = offered("product")
    ordered = moves(captured("product"), plan, "spills", {found[0].plan.key()})
    helping = ["spills" in move.helps for move in ordered]
    assert helping == sorted(helping, reverse=True) and any(helping)
    assert found[0].plan.key() not in {move.plan.key() for move in ordered}


@pytest.mark.parametrize("name", ["product", "few rows"])
def test_a_family_that_is_preferred_comes_first_and_the_order_within_stays(name: str) -> None:
    plan, options = offered(name)
    assert {move.family for move in options} <= set(FAMILIES) and len({m.family for m in options}) > 2
    for family in {move.family for move in options}:
        steered = moves(captured(name), plan, "bandwidth", frozenset(), family)
        usual = moves(captured(name), plan, "bandwidth", frozenset())
        mine = [move.name for move in usual if move.family == family]
        assert [move.name for move in steered[: len(mine)]] == mine and len(steered) == len(usual)


def test_few_tiles_and_long_sums_are_cut_first() -> None:
    assert [k.scheme for k in offered("long sums")[0].kernels] == ["parts"]
    assert all(k.scheme != "parts" for k in offered("product")[0].kernels)


def test_a_move_keeps_what_other_kernels_have() -> None:
    plan, _ = offered("few rows")
    persistent = next(m for m in offered("few rows")[1] if "persistent" in m.name)
    after = [m.plan for m in moves(captured("few rows"), persistent.plan, "occupancy", ()) if "elements" in m.name]
    assert after and all(any(k.persistent for k in p.kernels) for p in after)
    assert [k.scheme for k in plan.kernels] == [k.scheme for k in persistent.plan.kernels]
