"""Which tile a program works on: its own, or every n-th one where the grid is persistent; and how large its block is.

In: a writer, a kernel and how many tiles there are. Out: the lines that define ``program``, the launch's grid and
BLOCK. What a program does with its tile is left to the emitters.

A persistent grid has no more programs than the device runs at once, so that a program's setup is paid once and the
loads of its next tile can start while it still stores the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.plan import Kernel

#: Knob: how many programs of a persistent grid each compute unit gets.
PER_UNIT = "PER_UNIT"
#: Knob: tiles whose loads are in flight at once in a loop that has no product.
STAGES = "STAGES"


@contextmanager
def each_program(w: Writer, kernel: Kernel, tiles: str, *, wide: bool = False) -> Iterator[None]:
    """Writes ``program``, a tile's number; what is written inside is done once per tile.

    Args:
        tiles: how many there are, as device source.
        wide: whether ``program`` has 64 bits, for index arithmetic; descriptors take 32.
    """
    cast = ".to(tl.int64)" if wide else ""
    for name in ("program", "turn", "turns"):
        w.reserve(name)
    if not kernel.persistent:
        last_first = "(tl.num_programs(0) - 1 - tl.program_id(0))"
        w.line(f"program = {last_first if kernel.order == 'reversed' else 'tl.program_id(0)'}{cast}")
        yield
        return
    w.line(f"turns = tl.cdiv({tiles} - tl.program_id(0), tl.num_programs(0))")
    staged = STAGES in dict(kernel.knobs)
    header = f"for turn in tl.range(0, turns, num_stages={STAGES}):" if staged else "for turn in range(0, turns):"
    with w.loop(header):
        w.line(f"program = (tl.program_id(0) + turn * tl.num_programs(0)){cast}")
        yield


def grid_of(kernel: Kernel, tiles: str) -> tuple[str, tuple[str, ...]]:
    """(the grid's first dimension, host lines that must run before), with knobs in braces.

    Args:
        tiles: how many there are, as host source.
    """
    if not kernel.persistent:
        return tiles, ()
    stem = kernel.name.removesuffix("_kernel")
    units = f"{stem}_units = torch.cuda.get_device_properties(device).multi_processor_count"
    return f"{stem}_programs", (units, f"{stem}_programs = min({tiles}, {stem}_units * {{{PER_UNIT}}})")


def constants_of(kernel: Kernel, *names: str) -> tuple[str, ...]:
    """The knobs that a kernel takes as constexpr."""
    staged = kernel.persistent and STAGES in dict(kernel.knobs)
    return (*names, STAGES) if staged else names


@dataclass(frozen=True)
class Block:
    """Where BLOCK comes from.

    Attributes:
        source: on the host, with knobs in braces.
        knobs: the constexprs that it is among the knobs, or none.
        derived: the constexprs that follow from other knobs.
        before: host lines that must run first.
    """

    source: str
    knobs: tuple[str, ...]
    derived: tuple[tuple[str, str], ...] = ()
    before: tuple[str, ...] = ()


def block_of(kernel: Kernel) -> Block:
    """BLOCK as a knob, or so many elements per warp."""
    if not kernel.warp_elements:
        return Block("{BLOCK}", ("BLOCK",))
    name = f"{kernel.name.removesuffix('_kernel')}_block"
    return Block(name, (), (("BLOCK", name),), (f"{name} = {kernel.warp_elements} * {{num_warps}}",))
