"""Kernels with reductions over one domain.

Schemes: ``one_pass`` holds a whole row (or column) in one tile and reads memory once; ``looped`` runs over the reduced
dimensions in blocks, once per level of reductions that depend on each other and once more for results of full size;
``split`` gives each row to several programs and combines their partial results in a second kernel.

A domain whose last dimension is reduced is walked in rows (``row`` kept, ``column`` reduced), any other in columns
(``row`` reduced, ``column`` kept), so that neighbouring lanes always read neighbouring elements.
"""

from __future__ import annotations

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.coordinates import unflatten
from kernelevolve.translate.emit.grid import block_of
from kernelevolve.translate.emit.layout import domain_of, groups, store_coordinates, trace
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.split import write_split
from kernelevolve.translate.emit.walk import (
    Walk,
    arange,
    close_loop,
    keep_results,
    kept_axes,
    levels,
    open_loop,
    position,
    reducer,
    spread,
    store_all,
)
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import ZERO, text
from kernelevolve.translate.plan import Kernel


def write(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> list[KernelSource]:
    """Writes a reduction kernel; ``split`` gives two sources."""
    available = stored - set(kernel.stores)
    domain = domain_of(graph, kernel.anchors[0])
    found = trace(graph, available, domain, kernel.anchors, kernel.stores)
    if found is None:
        raise TranslateError(f"cannot write {kernel.name}: its parts do not share one iteration space")
    runs = groups(domain, found)
    kept = [run for run in runs if run[0] in domain.kept]
    reduced = [run for run in runs if run[0] in domain.reduced]
    inner = not runs or not kept or runs[-1][0] in domain.reduced or not reduced
    w = Writer(graph, available, kernel.name)
    w.wide = kernel.wide
    values = {f"d{axis}": ZERO for axis in range(len(domain.shape))}
    flat = kernel.scheme == "one_pass" or len(reduced) <= 1
    walk = Walk(graph, kernel, w, domain, kept, reduced, inner, flat, values)
    if kernel.scheme == "split":
        return write_split(walk)
    grid, constants, derived = kept_axes(walk)
    if kernel.scheme == "one_pass":
        derived.append(("BLOCK", f"triton.next_power_of_2({text(walk.length)})"))
        _one_pass(walk)
        return [finish(w, kernel, Launch(tuple(grid), tuple(constants), tuple(derived)))]
    block = block_of(kernel)
    looped(walk)
    launch = Launch(tuple(grid), (*constants, *block.knobs), (*derived, *block.derived), block.before)
    return [finish(w, kernel, launch)]


def _one_pass(walk: Walk) -> None:
    w = walk.w
    axis = walk.axis_name
    place = w.axis(axis, walk.length, f"{axis}_in_range", tile=True)
    w.reserve(f"{axis}_in_range")
    w.line(f"{axis} = {arange(walk)}")
    w.line(f"{axis}_in_range = {axis} < {w.size(walk.length)}")
    walk.values |= spread(walk, walk.reduced, unflatten(place, [walk.extent(r) for r in walk.reduced], w.extents))
    mask = w.mask_of(frozenset((axis,)))
    for level in levels(walk):
        for anchor in level:
            value = w.read(walk.graph.nodes[anchor].args[0], walk.at(walk.domain.coordinates()))
            r = reducer(walk, anchor)
            found = r.direct(value, mask, w.index(position(walk)), w.size(walk.length))
            keep_results(walk, anchor, found)
    store_all(walk, full=True)
    store_all(walk, full=False)


def looped(walk: Walk, begin: str | None = None, end: str | None = None) -> None:
    """One loop per level, and one for the results of full size."""
    for level in levels(walk):
        writing = [(anchor, reducer(walk, anchor)) for anchor in level]
        lanes = {anchor: r.start() for anchor, r in writing}
        with open_loop(walk, begin, end) as mask:
            for anchor, r in writing:
                value = walk.w.read(walk.graph.nodes[anchor].args[0], walk.at(walk.domain.coordinates()))
                r.update(lanes[anchor], value, mask, walk.w.index(position(walk)))
        close_loop(walk)
        for anchor, r in writing:
            keep_results(walk, anchor, r.finish(lanes[anchor]))
    spans = [store_coordinates(walk.graph, walk.domain, name) for name in walk.kernel.stores]
    if any(where is not None and where[1] for where in spans):
        with open_loop(walk, begin, end):
            store_all(walk, full=True)
        close_loop(walk)
    store_all(walk, full=False)
