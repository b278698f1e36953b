"""How much of a device's memory a candidate takes, and how much of it those who share a device may take.

In: a Description. Out: bytes, and a share of the memory. Left to others: who gets a place (`seat`), what is allocated
(`tensors`). In a screen rings and held results are small, so that many candidates fit on a device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from kernelevolve.hardware import HardwareFigures
from kernelevolve.protocol import Description, InputSpec, OutputSpec, StateSpec

RING_BYTES, SLOTS = 4 << 30, 20  # most that `tensors.ring` takes for a ring
SCREEN_RING_BYTES = 2 << 30  # the same in a screen, but for the least number of slots
HOLD_BYTES = 8 << 30  # of results of one that has a device to itself
HOLD_SHARE = 0.1  # of the memory that is free
SCREEN_HOLD_BYTES, SCREEN_HOLD_SHARE = 3 << 30, 0.3  # the same of a screen, which has as much set aside for it
ROOMY_BYTES = 2 << 30  # a footprint beyond which a candidate has the device to itself
FEW_QUEUES = 2  # of the context of a process that shares the device, see `tensors.queues`: made in half the time
BURST_CALLS = 4  # timed calls of a short burst, at most; a long one has twice as many
_PER_BLOCK = 6  # timed calls of a block, in calls of a short burst
SCREEN_BLOCKS = 4  # of a screen before it looks at the interval
HELD_BLOCKS = 2  # of them whose results have room: what is compared in between is compared while nobody else works
_SPARE_SLOTS = 2  # beyond a long burst: one for the untimed call
_CONTEXT_BYTES, _FLUSH_BYTES, _GAP_BYTES = 5 << 27, 1 << 28, 1 << 20  # of a process; most before a tensor of a ring
# What torch has kept of drawing inputs and of filling parameters and buffers, in their own bytes, seen on an H200.
_DRAWN, _FILLED = 12, 6
_DRAWN_AGAIN = 8  # by an oracle, beside what it has
_FOR_JUDGES = 0.5  # of the device's memory: oracles that are kept, baselines with their rings
_FOR_OTHERS = 0.05  # the same: who has a process there and no place yet, what nobody foresees
_CASES_KEPT = 5  # oracles that a screen comes back to
_WIDTHS = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


def width(dtype: str) -> int:
    """Bytes of one element."""
    return _WIDTHS.get(dtype, 1)


def nbytes(leaves: Iterable[InputSpec | StateSpec | OutputSpec]) -> int:
    """Bytes of leaves; what is no tensor has none."""
    return sum(math.prod(leaf.shape) * width(leaf.dtype) for leaf in leaves if leaf.dtype)


def footprint(description: Description) -> int:
    """Bytes of one set of inputs, parameters and outputs."""
    return nbytes(description.inputs) + nbytes(description.state) + nbytes(description.outputs)


def told(descriptions: Iterable[Description], figures: HardwareFigures) -> str:
    """For writers, as Markdown: what a forward pass moves at least at each size, and how long that takes.

    The time is the bytes over the bandwidth of the sheet: no kernel is faster, and the best reach some 0.85 of it.
    """
    return "\n".join(f"- {_moved(d, figures)}" for d in descriptions)


def _moved(d: Description, figures: HardwareFigures) -> str:
    named = (("inputs", d.inputs), ("parameters and buffers", d.state), ("results", d.outputs))
    sizes = ", ".join(f"{what} {nbytes(leaves) / 1e6:.3g} MB" for what, leaves in named if nbytes(leaves))
    least = footprint(d) / figures.bandwidth * 1e6
    return (
        f"Workload {d.variant.workload} at full size: {sizes or 'no tensors'}. Moved once each that is {least:.3g} us "
        f"at {figures.bandwidth / 1e12:.3g} TB/s (modelled); what is read again costs its time again, parameters that "
        "every row reads too, unless the last cache still has it"
    )


def screen_calls(d: Description) -> int:
    """Timed calls of a short burst in a screen, at most: as far as there is room for slots and results."""
    slots = SCREEN_RING_BYTES // max(1, _slot(d))
    results = SCREEN_HOLD_BYTES // max(1, HELD_BLOCKS * _PER_BLOCK * nbytes(d.outputs))
    return max(1, min(BURST_CALLS, (slots - _SPARE_SLOTS) // 2, results))


def screen_slots(d: Description) -> int:
    """Slots of a ring in a screen: what its longest burst needs."""
    return 2 * screen_calls(d) + _SPARE_SLOTS


def screen_share(sizes: Iterable[tuple[Description, int]], memory: int) -> float:
    """The share of the memory for candidates that one takes at most in a screen of these workloads.

    Args:
        sizes: each workload's, with the timed calls of a short burst as far as that is known, else 0.
        memory: bytes of the device.
    """
    each = (
        _CONTEXT_BYTES
        + _FLUSH_BYTES
        + _DRAWN * nbytes(d.inputs)
        + _FILLED * nbytes(d.state)
        + 2 * nbytes(d.outputs)
        + _ring(d, screen_slots(d))
        + min(SCREEN_HOLD_BYTES, SCREEN_BLOCKS * _block(d, calls))
        for d, calls in sizes
    )
    return sum(each) / ((1 - _FOR_JUDGES - _FOR_OTHERS) * memory)


def judges_share(descriptions: Iterable[Description], baselines: int, memory: int, *, screen: bool) -> float:
    """The share of the memory for judges that those of one problem take: an oracle in fp64 beside the reference with
    what it keeps, and each baseline with its ring and the results that it holds; in a screen all candidates are timed
    against one of them.

    Args:
        baselines: that are there.
        memory: bytes of the device.
        screen: whether rings and held results are those of a screen.
    """

    def each(d: Description) -> float:
        held = _block(d) if screen else baselines * min(HOLD_BYTES, BURST_CALLS * _PER_BLOCK * nbytes(d.outputs))
        ring = _ring(d, screen_slots(d) if screen else SLOTS)
        return (
            _CONTEXT_BYTES
            + 4 * footprint(d)
            + 4 * nbytes(d.state)
            + 4 * _CASES_KEPT * nbytes(d.outputs)
            + _DRAWN_AGAIN * nbytes(d.inputs)
            + baselines * (_CONTEXT_BYTES + _FLUSH_BYTES + footprint(d) + ring)
            + held
        )

    return sum(map(each, descriptions)) / (_FOR_JUDGES * memory)


def _slot(d: Description) -> int:
    return nbytes(d.inputs) + len(d.inputs) * _GAP_BYTES


def _ring(d: Description, slots: int) -> int:
    return min(RING_BYTES, slots * _slot(d))


def _block(d: Description, calls: int = 0) -> int:
    """Bytes of the results of a block of a screen.

    Args:
        calls: of a short burst; as many as there may be, if 0.
    """
    most = screen_calls(d)
    return min(calls or most, most) * _PER_BLOCK * nbytes(d.outputs)
