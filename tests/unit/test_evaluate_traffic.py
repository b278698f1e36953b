"""Bytes and FLOPs from a kernel's text and its plan: what is loaded twice counts twice, tiles of a product once."""

from __future__ import annotations

import pytest

from kernelevolve.evaluate.room import footprint
from kernelevolve.evaluate.traffic import read_sites, works
from kernelevolve.evaluation import Buffer, Fill, Launch, LaunchPlan
from kernelevolve.protocol import Description, InputSpec, OutputSpec, StateSpec, Variant

ROW = """
@triton.jit
def softmax(x, y, n, BLOCK: tl.constexpr):
    row = x + tl.program_id(0) * n
    total = 0.0
    for start in range(0, n, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.exp(tl.load(row + cols, mask=cols < n)))
    {again}
"""
TWICE = """for start in range(0, n, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(row + cols, mask=cols < n)
        tl.store(y + tl.program_id(0) * n + cols, tl.exp(v) / total, mask=cols < n)"""
PRODUCT = """
@triton.jit
def product(a, b, c, K, PRECISION: tl.constexpr):
    for k in range(0, K, 32):
        acc = tl.dot(tl.load(a + k), tl.load(b + k), acc, input_precision=PRECISION)
    acc = tl.dot(tl.load(a), tl.load(b), acc, input_precision=PRECISION)
    tl.store(c, acc)
"""
N = 1024 * 512


def buffer(name: str, role: str, dtype: str = "float32") -> Buffer:
    return Buffer(name, (1024, 512), (512, 1), dtype, role)  # type: ignore[arg-type]


def plan(kernel: str, buffers: dict[str, Buffer], constants: dict[str, object], *more: Launch) -> LaunchPlan:
    arguments = {argument: f"buffer {b.name}+0" for argument, b in buffers.items()}
    launch = Launch(kernel, {}, constants, {}, arguments, (1024, 1, 1), {})
    return LaunchPlan("declared", "h100", tuple(buffers.values()), (launch, *more), ())


@pytest.mark.parametrize(("again", "passes", "written"), [("pass", 1, 0), (TWICE, 2, 1)])
def test_each_walk_over_a_row_is_a_read(again: str, passes: int, written: int) -> None:
    source = ROW.format(again=again)
    assert read_sites(source)["softmax"].loads["x"] == passes
    buffers = {"x": buffer("input0", "input"), "y": buffer("output0", "output")}
    (work,) = works(source, plan("softmax", buffers, {}), {}, [])
    assert (work.bytes_read, work.bytes_written) == (passes * 4 * N, written * 4 * N)
    assert work.name == "softmax" and not work.flops and work.bytes_reused == 0


@pytest.mark.parametrize(
    ("dtype", "constants", "choice", "arithmetic"),
    [
        ("float32", {"PRECISION": "ieee"}, {}, "fp32"),
        ("float32", {"PRECISION": "tf32x3"}, {}, "tf32x3"),
        ("float32", {}, {"PRECISION": "bf16x3"}, "bf16x3"),
        ("float16", {"PRECISION": "ieee"}, {}, "fp16"),
        ("bfloat16", {"PRECISION": "ieee"}, {}, "bf16"),
    ],
)
def test_a_product_reads_its_operands_once_in_the_arithmetic_it_asks_for(
    dtype: str, constants: dict[str, object], choice: dict[str, str], arithmetic: str
) -> None:
    buffers = {"a": buffer("input0", "input", dtype), "b": buffer("input1", "input", dtype)}
    buffers["c"] = buffer("output0", "output")
    (work,) = works(PRODUCT, plan("product", buffers, constants), choice, [2e9])
    size = 4 if dtype == "float32" else 2
    assert (work.bytes_read, work.bytes_written) == (2 * size * N, 4 * N)
    assert work.flops == {arithmetic: 2e9}


def test_products_are_dealt_out_and_what_was_just_written_is_read_again() -> None:
    first = {"a": buffer("input0", "input"), "b": buffer("input1", "input"), "c": buffer("scratch0", "scratch")}
    second = Launch(
        "product", {}, {"PRECISION": "ieee"}, {},
        {"a": "buffer scratch0+0", "b": "buffer input1+64", "c": "buffer output0+0"}, (8, 1, 1), {},
    )  # fmt: skip
    made = plan("product", {**first, "d": buffer("output0", "output")}, {"PRECISION": "ieee"}, second)
    made = LaunchPlan(made.workload, made.platform, made.buffers, made.launches, (Fill("output0", 0.0),))
    fill, one, two = works(PRODUCT, made, {}, [1e9, 2e9, 4e9])
    assert fill.bytes_written == 4 * N and not fill.compiled
    assert (sum(one.flops.values()), sum(two.flops.values())) == (1e9, 6e9)
    assert (one.bytes_reused, two.bytes_reused) == (0, 2 * 4 * N)


def test_a_descriptor_is_read_like_a_pointer() -> None:
    source = (
        "def k(x, y):\n    d = tl.make_tensor_descriptor(x, [8], [1], [8])\n    v = d.load([0])\n"
        "    o = tl.make_tensor_descriptor(y, [8], [1], [8])\n    o.store([0], v)\n    tl.atomic_add(y, 1)\n"
    )
    sites = read_sites(source)["k"]
    assert sites.loads == {"x": 1} and sites.stores == {"y"}


PERSISTENT = """
@triton.jit
def walk(x, y, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    for tile in range(tl.program_id(0), n, {step}):
        total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in range(0, n, BLOCK_K):
            total = tl.dot(tl.load(x + tl.arange(0, BLOCK_K)), tl.load(x), total)
        tl.store(y + tl.arange(0, BLOCK_M), total)
"""


@pytest.mark.parametrize(("step", "tiles"), [("tl.num_programs(0)", 32), ("1", None)])
def test_the_tiles_of_a_persistent_grid_are_counted(step: str, tiles: int | None) -> None:
    buffers = {"x": buffer("input0", "input"), "y": buffer("output0", "output")}
    constants = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}
    (work,) = works(PERSISTENT.format(step=step), plan("walk", buffers, constants), {}, [1e9])
    assert work.tiles == tiles and work.programs == 1024


def test_the_footprint_is_inputs_parameters_and_outputs() -> None:
    description = Description(
        Variant("declared", "full", ""),
        (InputSpec("x", "values", (10, 10), (10, 1), "bfloat16"), InputSpec("k", "plain", value=3)),
        (StateSpec("weight", (10,), "float32", "normal"),),
        (OutputSpec("out", (10, 10), "float64"), OutputSpec("flags", (10,), "bool")),
    )
    assert footprint(description) == 200 + 40 + 800 + 10
