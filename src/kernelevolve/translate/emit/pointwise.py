"""Kernels without a reduction: one pass over the elements of the result.

Schemes: ``flat`` walks one contiguous block of elements per program; ``tiled`` walks a two-dimensional tile where one
access is contiguous along another dimension than the store (a transposed read). Both may have a persistent grid.
"""

from __future__ import annotations

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.coordinates import substitute, unflatten
from kernelevolve.translate.emit.grid import block_of, constants_of, each_program, grid_of
from kernelevolve.translate.emit.layout import Domain, crossing, groups, store_coordinates, trace
from kernelevolve.translate.emit.reader import Trace, address
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import ZERO, Expr, product, text
from kernelevolve.translate.plan import Kernel


def write(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> KernelSource:
    """Writes a pointwise kernel."""
    domain = Domain(graph.nodes[kernel.stores[0]].shape)
    found = trace(graph, stored - set(kernel.stores), domain, (), kernel.stores)
    if found is None:
        raise TranslateError(f"cannot write {kernel.name}: {', '.join(kernel.stores)} do not share one shape")
    runs = groups(domain, found)
    if kernel.scheme == "tiled" and len(runs) >= 2:
        return _tiled(graph, kernel, stored, domain, runs, _most_crossed(found, runs))
    return _flat(graph, kernel, stored, domain, runs)


def _most_crossed(found: Trace, runs: list[list[int]]) -> int:
    """The run, other than the last, along which most accesses are contiguous."""
    return max(range(len(runs) - 1), key=lambda k: (crossing(found, runs[k], runs[-1]), k))


def _flat(
    graph: Graph, kernel: Kernel, stored: frozenset[str], domain: Domain, runs: list[list[int]]
) -> KernelSource:
    w = Writer(graph, stored - set(kernel.stores), kernel.name)
    if not domain.shape:
        emit_stores(w, graph, domain, kernel, {})
        return finish(w, kernel, Launch(("1",)))
    total = product(domain.shape)
    with each_program(w, kernel, f"tl.cdiv({w.size(total)}, BLOCK)", wide=kernel.wide):
        element = w.axis("element", total, "in_range", tile=True)
        w.tile = (("element", "BLOCK"),)
        w.line("element = program * BLOCK + tl.arange(0, BLOCK)")
        w.line(f"in_range = element < {w.size(total)}")
        w.reserve("in_range")
        extents = [product([domain.shape[a] for a in run]) for run in runs]
        spread = unflatten(element, extents, w.extents) if runs else []
        emit_stores(w, graph, domain, kernel, spread_runs(domain, runs, spread, w))
    block = block_of(kernel)
    grid, before = grid_of(kernel, f"triton.cdiv({text(total)}, {block.source})")
    launch = Launch((grid,), constants_of(kernel, *block.knobs), block.derived, (*block.before, *before))
    return finish(w, kernel, launch)


def spread_runs(domain: Domain, runs: list[list[int]], places: list[Expr], w: Writer) -> dict[str, Expr]:
    """``d0, d1, ...`` in terms of one coordinate per run."""
    values: dict[str, Expr] = {f"d{a}": ZERO for a in range(len(domain.shape))}
    for run, place in zip(runs, places, strict=True):
        for axis, coordinate in zip(run, unflatten(place, [domain.shape[a] for a in run], w.extents), strict=True):
            values[f"d{axis}"] = coordinate
    return values


def emit_stores(w: Writer, graph: Graph, domain: Domain, kernel: Kernel, values: dict[str, Expr]) -> None:
    """Computes and stores every result at the current coordinates."""
    for name in kernel.stores:
        where = store_coordinates(graph, domain, name)
        assert where is not None, name
        at = [substitute(expr, values, w.extents) for expr in where[0]]
        value = w.read(name, at)
        w.store(name, address(graph, name, at), value)


def _tiled(
    graph: Graph, kernel: Kernel, stored: frozenset[str], domain: Domain, runs: list[list[int]], cross: int
) -> KernelSource:
    w = Writer(graph, stored - set(kernel.stores), kernel.name)
    extents = [product([domain.shape[a] for a in run]) for run in runs]
    rest = [k for k in range(len(runs)) if k not in (cross, len(runs) - 1)]
    count = product([extents[k] for k in rest])
    w.reserve("row_tiles")
    w.reserve("column_tiles")
    w.line(f"row_tiles = tl.cdiv({w.size(extents[cross])}, BLOCK_ROWS)")
    w.line(f"column_tiles = tl.cdiv({w.size(extents[-1])}, BLOCK_COLUMNS)")
    tiles = "row_tiles * column_tiles" + (f" * {w.size(count)}" if rest and kernel.persistent else "")
    with each_program(w, kernel, tiles, wide=kernel.wide):
        row = w.axis("row", extents[cross], "row_in_range", tile=True)
        column = w.axis("column", extents[-1], "column_in_range", tile=True)
        w.tile = (("row", "BLOCK_ROWS"), ("column", "BLOCK_COLUMNS"))
        w.line("row_tile = (program // column_tiles) % row_tiles")
        w.line("column_tile = program % column_tiles")
        w.line("row = (row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]")
        w.line("column = (column_tile * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS))[None, :]")
        w.line(f"row_in_range = row < {w.size(extents[cross])}")
        w.line(f"column_in_range = column < {w.size(extents[-1])}")
        places: dict[int, Expr] = {cross: row, len(runs) - 1: column}
        if rest:
            outer = w.axis("outer", count, tile=False)
            w.line("outer = program // (row_tiles * column_tiles)")
            for k, place in zip(rest, unflatten(outer, [extents[k] for k in rest], w.extents), strict=True):
                places[k] = place
        values = spread_runs(domain, runs, [places[k] for k in range(len(runs))], w)
        emit_stores(w, graph, domain, kernel, values)
    columns, rows = (text(extents[k]) for k in (-1, cross))
    on_host = f"triton.cdiv({columns}, {{BLOCK_COLUMNS}}) * triton.cdiv({rows}, {{BLOCK_ROWS}})"
    grid, before = grid_of(kernel, on_host + (f" * ({text(count)})" if rest else ""))
    constants = constants_of(kernel, "BLOCK_ROWS", "BLOCK_COLUMNS")
    return finish(w, kernel, Launch((grid,), constants, (), before))
