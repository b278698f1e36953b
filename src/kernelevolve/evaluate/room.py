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
SCREEN_SLOTS = 10  # a burst of a screen has at most 8 timed calls and an untimed one
HOLD_BYTES = 8 << 30  # of results of one that has a device to itself
HOLD_SHARE = 0.1  # of the memory that is free
SCREEN_HOLD_BYTES, SCREEN_HOLD_SHARE = 3 << 30, 0.3  # the same of a screen, which has as much set aside for it
ROOMY_BYTES = 2 << 30  # a footprint beyond which a candidate has the device to itself
_CALLS_PER_BLOCK = 24  # at most
_CALLS_HELD = 4 * _CALLS_PER_BLOCK  # results of a screen before they are compared, at most
_CONTEXT_BYTES, _GAP_BYTES = 1 << 30, 1 << 20  # of a process, and most before a tensor of a ring
_FOR_JUDGES = 0.4  # of the device's memory: oracles that are kept, baselines with their rings
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


def screen_share(descriptions: Iterable[Description], memory: int) -> float:
    """The share of the memory for candidates that one takes at most in a screen of these workloads.

    Args:
        memory: bytes of the device.
    """
    each = (
        _CONTEXT_BYTES
        + 3 * footprint(d)
        + _ring(d, SCREEN_SLOTS)
        + min(SCREEN_HOLD_BYTES, _CALLS_HELD * nbytes(d.outputs))
        for d in descriptions
    )
    return sum(each) / ((1 - _FOR_JUDGES - _FOR_OTHERS) * memory)


def judges_share(descriptions: Iterable[Description], baselines: int, memory: int, *, screen: bool) -> float:
    """The share of the memory for judges that those of one problem take: an oracle in fp64 beside the reference with
    what it keeps, and each baseline with its ring and the results that it holds.

    Args:
        baselines: timed beside each candidate.
        memory: bytes of the device.
        screen: whether rings and held results are those of a screen.
    """
    slots, most = (SCREEN_SLOTS, SCREEN_HOLD_BYTES) if screen else (SLOTS, HOLD_BYTES)
    each = (
        (1 + baselines) * _CONTEXT_BYTES // 2
        + 4 * footprint(d)
        + 4 * nbytes(d.state)
        + 4 * _CASES_KEPT * nbytes(d.outputs)
        + baselines * (footprint(d) + _ring(d, slots) + min(most, _CALLS_PER_BLOCK * nbytes(d.outputs)))
        for d in descriptions
    )
    return sum(each) / (_FOR_JUDGES * memory)


def _ring(d: Description, slots: int) -> int:
    return min(RING_BYTES, slots * (nbytes(d.inputs) + len(d.inputs) * _GAP_BYTES))
