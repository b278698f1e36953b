"""Platforms: every built-in is complete, sourced and describes its device in JSON."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from kernelevolve.hardware import HardwareFigures
from kernelevolve.platforms import Platform
from kernelevolve.platforms.amd import MI300X, MI350X
from kernelevolve.platforms.cost import Work
from kernelevolve.platforms.nvidia import A100, B200, H100, H200
from kernelevolve.translate.first import precisions

ALL = (A100, H100, H200, B200, MI300X, MI350X)


@pytest.fixture(params=ALL, ids=lambda p: p.name)
def platform(request: pytest.FixtureRequest) -> Platform:
    return request.param


def test_every_built_in_is_a_platform_and_an_entry_point() -> None:
    found = {e.name: e.load() for e in entry_points(group="kernelevolve.platforms")}
    assert {p.name: p for p in ALL} == found
    assert all(isinstance(p, Platform) for p in ALL)


def test_every_figure_is_positive_and_has_a_source(platform: Platform) -> None:
    figures = platform.figures
    for field in dataclasses.fields(HardwareFigures):
        value = getattr(figures, field.name)
        if isinstance(value, (int, float)):
            assert value > 0, field.name
    known = {f.name for f in dataclasses.fields(HardwareFigures)} | {"all"}
    assert set(figures.sources) <= known
    assert "all" in figures.sources
    assert "working figure" in figures.sources["launch_seconds"]
    assert {"memory", "library", "generated"} <= set(platform.efficiency.sources)


def test_vector_peak_follows_from_units_and_clock(platform: Platform) -> None:
    # NVIDIA: 64 (A100) or 128 lanes per unit; AMD: 128 lanes with dual issue. Two FLOPs per fused multiply-add.
    lanes = {"a100": 64, "h100": 128, "h200": 128, "b200": 128, "mi300x": 128, "mi350x": 128}[platform.name]
    figures = platform.figures
    assert figures.peak_flops["fp32"] == pytest.approx(figures.units * lanes * 2 * figures.clock_hz, rel=0.01)


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_the_planner_begins_with_the_arithmetic_that_the_model_favours(platform: Platform, allow_tf32: bool) -> None:
    known = precisions(platform.name, allow_tf32)
    assert set(known) <= set(platform.input_precisions)
    if allow_tf32 and platform.vendor == "nvidia":
        # The model knows tf32 from one measured operand layout; its other layouts are faster.
        assert known[0] == "tf32"
        return
    arithmetic = {"ieee": "fp32"}
    times = {name: platform.modelled([Work(name, 0, 0, {arithmetic.get(name, name): 1e15})]).value for name in known}
    assert list(known) == sorted(times, key=lambda name: times[name])


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_arithmetic_for_a_vendor_is_what_all_its_parts_have(allow_tf32: bool) -> None:
    for vendor in ("nvidia", "amd"):
        parts = [set(p.input_precisions) for p in ALL if p.vendor == vendor]
        assert set(precisions(vendor, allow_tf32)) <= set.intersection(*parts)


def test_peaks_rise_as_types_narrow(platform: Platform) -> None:
    order = [k for k in ("fp64", "fp32", "tf32", "fp16", "fp8") if k in platform.figures.peak_flops]
    peaks = [platform.figures.peak_flops[k] for k in order]
    assert peaks == sorted(peaks)


def test_a_stand_in_answers_in_json_what_the_figures_say(platform: Platform) -> None:
    answers = json.loads(json.dumps(platform.device_answers()))
    assert answers["multi_processor_count"] == platform.figures.units
    assert answers["shared_memory_per_block_optin"] == platform.figures.shared_bytes_per_block
    assert answers["warp_size"] == platform.target.warp_size
    assert answers["max_threads_per_multi_processor"] == 2048
    assert bool(answers["gcnArchName"]) == (platform.vendor == "amd")


def test_h200_answers_the_cache_size_that_its_driver_answers() -> None:
    assert H200.device_answers()["L2_cache_size"] == 60 << 20
    assert H200.figures.l2_bytes == 50 << 20


def test_rules_are_a_list_that_names_what_builds(platform: Platform) -> None:
    lines = platform.rules.splitlines()
    assert all(line.startswith(("- ", "  ")) for line in lines)
    assert all(f"`{p}`" in lines[-1] for p in platform.input_precisions)


def test_amd_builds_no_split_tf32() -> None:
    assert "tf32x3" not in MI300X.input_precisions
    assert "tf32" not in MI350X.input_precisions
    assert "tf32" not in MI350X.figures.peak_flops


def test_a_platform_models_and_bounds_a_copy(platform: Platform) -> None:
    works = [Work("copy", 512e6, 512e6)]
    modelled, floor = platform.modelled(works), platform.floor(works)
    assert modelled.unit == floor.unit == "ms"
    assert floor.value < modelled.value < 2 * floor.value


def test_platforms_import_neither_torch_nor_triton() -> None:
    code = (
        "import sys, kernelevolve.platforms.nvidia, kernelevolve.platforms.amd;"
        "print(sorted({'torch', 'triton', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
