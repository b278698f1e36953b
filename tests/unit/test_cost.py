"""The cost model: ordered as physics says, never below its floor, and near what one H200 measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.evaluation import Buffer, Evidence, Fill, Launch, LaunchPlan, Resources
from kernelevolve.platforms import cost
from kernelevolve.platforms.amd import MI300X, MI350X
from kernelevolve.platforms.cost import Work, modelled_launch, physics_floor, plan_works
from kernelevolve.platforms.nvidia import A100, B200, H100, H200

ALL = (A100, H100, H200, B200, MI300X, MI350X)
platforms = st.sampled_from(ALL)
amounts = st.floats(0, 1e12, allow_nan=False)
programs = st.none() | st.integers(1, 10**7)
arithmetics = st.sampled_from(["fp32", "tf32", "bf16", "fp16", "fp8", "fp64", "tf32x3", "bf16x3", "bf16x6"])


@st.composite
def works(draw: st.DrawFn) -> Work:
    read = draw(amounts)
    return Work(
        "w",
        read,
        draw(amounts),
        draw(st.dictionaries(arithmetics, amounts, max_size=3)),
        draw(programs),
        draw(st.sampled_from(["library", "generated"])),
        draw(st.floats(0, 1)) * read,
    )


resources = st.none() | st.builds(
    Resources,
    kernel=st.just("k"),
    target=st.just("sm_90"),
    binary=st.just("0"),
    registers=st.integers(16, 255),
    spill_bytes=st.integers(0, 4096),
    shared_bytes=st.integers(0, 1 << 17),
    warps=st.sampled_from([1, 2, 4, 8, 16]),
    occupancy=st.floats(0.01, 1),
)


def seconds(platform, work, found=None) -> float:
    return modelled_launch(platform.figures, platform.efficiency, platform.target.warp_size, work, found).seconds


@given(platforms, works(), resources)
def test_never_below_the_physics_floor(platform, work, found) -> None:
    assert seconds(platform, work, found) >= physics_floor(platform.figures, [work])


@given(platforms, works(), resources, st.floats(0, 1e12), arithmetics)
def test_more_bytes_or_flops_never_cost_less(platform, work, found, more, arithmetic) -> None:
    now = seconds(platform, work, found)
    read = Work(work.name, work.bytes_read + more, work.bytes_written, work.flops, work.programs, work.maker,
                work.bytes_reused)  # fmt: skip
    computed = Work(work.name, work.bytes_read, work.bytes_written,
                    {**work.flops, arithmetic: work.flops.get(arithmetic, 0) + more}, work.programs, work.maker,
                    work.bytes_reused)  # fmt: skip
    assert seconds(platform, read, found) >= now * (1 - 1e-12)
    assert seconds(platform, computed, found) >= now * (1 - 1e-12)


@given(platforms, works(), st.integers(1, 4096))
def test_spills_and_low_occupancy_never_help(platform, work, spilled) -> None:
    def found(spill: int, occupancy: float) -> Resources:
        return Resources("k", "t", "0", 64, spill, 0, 4, occupancy)

    clean = seconds(platform, work, found(0, 1.0))
    assert seconds(platform, work, found(spilled, 1.0)) >= clean
    assert seconds(platform, work, found(0, 0.1)) >= clean


@pytest.mark.parametrize("platform", ALL, ids=lambda p: p.name)
def test_fusing_two_elementwise_launches_is_faster(platform) -> None:
    size = 1e9
    eager = [Work("mul", size, size), Work("add", size, size)]
    fused = [Work("mul_add", size, size)]
    assert platform.modelled(fused).value < platform.modelled(eager).value


# Measured on one H200, torch 2.11, Triton 3.6: milliseconds, then the launches. KernelBench's problems are in fp32.
N4096, N8192 = 3 * 4096**2 * 4, 3 * 8192**2 * 2
SQUARE = 32768**2 * 4  # bytes of the losses' input
ROWS = 16384 * 4096 * 4  # bytes of level2/40's output


def passes(name: str, size: float, read: float, written: float) -> Work:
    return Work(name, read * size, written * size, maker="library")


LINEAR = Work("linear", ROWS + 4096**2 * 4, ROWS, {"fp32": 2 * 16384 * 4096**2}, maker="library")
MEASURED = {
    "copy of 512 MiB": (0.256, [passes("copy", 2**29, 1, 1)]),
    "cuBLAS fp32 4096^3": (2.67, [Work("mm", N4096, 0, {"fp32": 2 * 4096**3}, maker="library")]),
    "cuBLAS tf32 4096^3": (0.36, [Work("mm", N4096, 0, {"tf32": 2 * 4096**3}, maker="library")]),
    "cuBLAS bf16 8192^3": (2 * 8192**3 / 800e9, [Work("mm", N8192, 0, {"bf16": 2 * 8192**3}, maker="library")]),
    "Triton ieee 4096^3": (3.02, [Work("mm", N4096, 0, {"fp32": 2 * 4096**3})]),
    "Triton bf16x6 4096^3": (2.06, [Work("mm", N4096, 0, {"bf16x6": 2 * 4096**3})]),
    "Triton tf32x3 4096^3": (2.58, [Work("mm", N4096, 0, {"tf32x3": 2 * 4096**3})]),
    "level1/27 SELU, eager": (3.394, [passes("selu", 4096 * 393216 * 4, 1, 1)]),
    "level1/94 MSELoss, eager": (
        5.951,
        [passes("sub", SQUARE, 2, 1), passes("pow", SQUARE, 1, 1), passes("mean", SQUARE, 1, 0)],
    ),
    "level1/94 MSELoss, compiled": (1.948, [Work("fused", 2 * SQUARE, 0)]),
    "level1/100 HingeLoss, eager": (
        8.080,
        [passes("mul", SQUARE, 1, 1), passes("rsub", SQUARE, 1, 1), passes("clamp", SQUARE, 1, 1),
         passes("mean", SQUARE, 1, 0)],
    ),
    "level1/100 HingeLoss, compiled": (1.049, [Work("fused", SQUARE, 0)]),
    "level2/40 Matmul_Scaling_ResidualAdd, eager": (
        11.329,
        [LINEAR, passes("clone", ROWS, 1, 1), passes("mul", ROWS, 1, 1), passes("add", ROWS, 2, 1)],
    ),
    "level2/40 Matmul_Scaling_ResidualAdd, compiled": (11.180, [LINEAR, Work("fused", ROWS, ROWS)]),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_stays_near_what_one_h200_measured(name: str) -> None:
    measured, works = MEASURED[name]
    modelled = H200.modelled(works)
    assert modelled.evidence is Evidence.MODELLED
    assert measured / 1.15 < modelled.value < measured * 1.15, f"{name}: modelled {modelled.value:.3f} ms"


def test_a_grid_of_one_program_uses_one_unit() -> None:
    work = {n: Work("w", 0, 0, {"fp32": 1e12}, programs=n) for n in (1, 132, 133)}
    one, full, tail = (modelled_launch(H100.figures, H100.efficiency, 32, work[n]).compute for n in (1, 132, 133))
    assert one == pytest.approx(132 * full)
    assert tail == pytest.approx(2 * 132 / 133 * full)


@given(st.integers(1, 5000), st.integers(1, 8))
def test_a_persistent_grid_ends_with_its_last_tile_as_one_program_per_tile_does(tiles: int, per_unit: int) -> None:
    programs = min(tiles, per_unit * H100.figures.units)
    each = Work("w", 0, 0, {"fp32": 1e12}, programs=tiles)
    walked = Work("w", 0, 0, {"fp32": 1e12}, programs=programs, tiles=tiles)
    both = [modelled_launch(H100.figures, H100.efficiency, 32, work).compute for work in (each, walked)]
    assert both[0] == pytest.approx(both[1])


def test_small_data_written_just_before_comes_from_the_cache() -> None:
    fresh, reused = Work("w", 4e6, 4e6), Work("w", 4e6, 4e6, bytes_reused=4e6)
    assert seconds(H100, reused) < seconds(H100, fresh)
    big_fresh, big_reused = Work("w", 4e9, 4e9), Work("w", 4e9, 4e9, bytes_reused=4e9)
    assert seconds(H100, big_reused) == seconds(H100, big_fresh)


def test_an_arithmetic_without_units_runs_as_a_wider_one_and_an_unknown_one_is_refused() -> None:
    assert seconds(MI350X, Work("w", 0, 0, {"tf32": 1e12})) >= 1e12 / MI350X.figures.peak_flops["fp32"]
    with pytest.raises(ValueError, match="has no arithmetic 'fp128'; known: fp64"):
        seconds(H100, Work("w", 0, 0, {"fp128": 1.0}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"bytes_read": -1.0, "bytes_written": 0.0}, "negative"),
        ({"bytes_read": 1.0, "bytes_written": 0.0, "bytes_reused": 2.0}, "reuses"),
        ({"bytes_read": 1.0, "bytes_written": 0.0, "programs": 0}, "grid of 0"),
    ],
)
def test_impossible_work_is_refused(fields, says) -> None:
    with pytest.raises(ValueError, match=says):
        Work("w", **fields)


def test_nothing_to_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no launch"):
        H100.modelled([])
    with pytest.raises(ValueError, match="1 resources for 2 launches"):
        H100.modelled([Work("a", 1, 1), Work("b", 1, 1)], [None])


def test_fills_have_no_resources() -> None:
    works = [Work("fill", 0, 1e9, compiled=False), Work("a", 1e9, 1e9, programs=10**6)]
    slow = Resources("a", "sm_90", "0", 255, 256, 0, 4, 0.1)
    assert H100.modelled(works, [slow]).value > H100.modelled(works, [None]).value


def a_plan() -> LaunchPlan:
    def buffer(name, role, rows=256):
        return Buffer(name, (rows, 128), (128, 1), "float32", role)

    def launch(kernel, **arguments):
        return Launch(kernel, {}, {}, {}, arguments, (256, 1, 1), {"num_warps": 4})

    return LaunchPlan(
        "declared",
        "h100",
        (buffer("x", "input"), buffer("t", "scratch"), buffer("y", "output"), buffer("z", "output", 1)),
        (
            launch("first", a="buffer x+0", out="buffer t+0", n=128),
            launch("second", a="buffer t+0", b="buffer x+64", out="buffer y+0", total="buffer z+0"),
        ),
        (Fill("z", 0.0),),
    )


def test_a_plan_without_counts_moves_each_argument_once() -> None:
    size, row = 256 * 128 * 4, 128 * 4
    fill, first, second = plan_works(a_plan(), {"fp32": 100.0})
    assert (fill.bytes_read, fill.bytes_written) == (0, row)
    assert (first.bytes_read, first.bytes_written, first.bytes_reused) == (size, size, 0)
    assert (second.bytes_read, second.bytes_written) == (2 * size + row, size + row)
    assert second.bytes_reused == 2 * size + row
    assert first.flops["fp32"] + second.flops["fp32"] == pytest.approx(100.0)
    assert first.programs == 256


def test_every_scheme_rests_on_a_known_arithmetic() -> None:
    for base, passes in cost.SCHEMES.values():
        assert base in H100.figures.peak_flops
        assert passes > 1
