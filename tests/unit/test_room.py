"""What writers are told of the bytes that a task moves at least; how much memory those who share a device may take."""

import math

import pytest

from kernelevolve import plugins
from kernelevolve.evaluate.arms import shape_for
from kernelevolve.evaluate.room import (
    SCREEN_BLOCKS,
    SCREEN_HOLD_BYTES,
    judges_share,
    screen_calls,
    screen_share,
    screen_slots,
    told,
)
from kernelevolve.protocol import Description, InputSpec, OutputSpec, StateSpec, Variant


def test_the_least_time_is_the_bytes_of_all_tensors_over_the_bandwidth() -> None:
    shape = (16, 64, 256, 256)
    weights = tuple(StateSpec(name, shape[1:], "float32", "normal") for name in ("ln.weight", "ln.bias"))
    norm = Description(
        Variant("declared", "full", ""), (InputSpec("x", "values", shape, (), "float32"), InputSpec("n", "plain")),
        weights, (OutputSpec("", shape, "float32"),),
    )  # fmt: skip
    figures = plugins.load("platforms", "h200").figures
    (line,) = told([norm], figures).splitlines()
    least = (2 * math.prod(shape) + 2 * math.prod(shape[1:])) * 4 / figures.bandwidth * 1e6
    assert "inputs 268 MB, parameters and buffers 33.6 MB, results 268 MB. Moved once each" in line
    assert f"that is {least:.3g} us at 4.8 TB/s (modelled)" in line
    assert told([norm, norm], figures).count("\n") == 1


def sized(values: int, results: int, weights: int = 0) -> Description:
    """Inputs, results and parameters of so many MiB."""
    made = (InputSpec("x", "values", (values << 18,), (), "float32"),)
    held = (StateSpec("w", (weights << 18,), "float32", "normal"),) if weights else ()
    return Description(Variant("declared", "full", ""), made, held, (OutputSpec("", (results << 18,), "float32"),))


@pytest.mark.parametrize("results", [1, 31, 62, 250, 1000, 4000])
@pytest.mark.parametrize("values", [1, 31, 125, 250, 500, 3000])
def test_a_screens_bursts_fit_the_slots_and_the_room_that_are_set_aside_for_them(values: int, results: int) -> None:
    d = sized(values, results)
    calls, slots = screen_calls(d), screen_slots(d)
    shape = shape_for(4, False, slots, results << 20, 140 << 30, blocks=SCREEN_BLOCKS)
    assert shape.calls == calls and shape.longer == 2 * calls and shape.untimed + shape.longer < slots
    assert shape.hold * (results << 20) <= max(SCREEN_HOLD_BYTES, 2 * (results << 20))
    if not shape.by_burst:  # so those of half the first blocks are compared once in between
        assert 2 * shape.hold >= SCREEN_BLOCKS * shape.block


def test_who_makes_fewer_calls_takes_less_room() -> None:
    memory, product, rows = 141 << 30, sized(32, 32, 256), sized(250, 250)
    unknown, one, four = (screen_share([(product, calls)], memory) for calls in (0, 1, 4))
    assert one < unknown == four
    assert screen_share([(rows, 4)], memory) == screen_share([(rows, 1)], memory), "no more than its bursts may have"
    judges = [judges_share([d], 2, memory, screen=True) for d in (product, rows)]
    assert 4 * judges[0] + 2 * judges[1] < 1, "judges of six problems fit beside each other"
