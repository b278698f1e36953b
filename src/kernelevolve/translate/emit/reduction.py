"""Kernels with reductions over one domain.

Schemes: ``one_pass`` holds a whole row (or column) in one tile and reads memory once; ``looped`` runs over the reduced
dimensions in blocks, once per level of reductions that depend on each other and once more for results of full size;
``split`` gives each row to several programs and combines their partial results in a second kernel.

A domain whose last dimension is reduced is walked in rows (``row`` kept, ``column`` reduced), any other in columns
(``row`` reduced, ``column`` kept), so that neighbouring lanes always read neighbouring elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.emit.grid import block_of
from kernelevolve.translate.emit.layout import Domain, domain_of, groups, results_of, store_coordinates, trace
from kernelevolve.translate.emit.pointwise import spread_runs
from kernelevolve.translate.emit.reader import address
from kernelevolve.translate.emit.reducers import Reducer, to_results
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.writer import Var, Writer, computed
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import ONE, ZERO, Expr, flatten, product, substitute, text, unflatten
from kernelevolve.translate.plan import Kernel


@dataclass
class _Walk:
    """A reduction kernel being written: the domain's runs and the coordinates so far."""

    graph: Graph
    kernel: Kernel
    w: Writer
    domain: Domain
    kept: list[list[int]]
    reduced: list[list[int]]
    inner: bool
    flat: bool
    values: dict[str, Expr]

    def extent(self, run: list[int]) -> Expr:
        """The number of positions of a run."""
        return product([self.domain.shape[a] for a in run])

    @property
    def length(self) -> Expr:
        """How many elements are reduced together."""
        return product([self.extent(run) for run in self.reduced])

    @property
    def axis_name(self) -> str:
        """The tile's axis along which values are reduced."""
        return "column" if self.inner else "row"

    @property
    def block(self) -> str:
        return "BLOCK"

    def at(self, expressions: list[Expr]) -> list[Expr]:
        """Domain coordinates replaced by the kernel's."""
        return [substitute(expr, self.values, self.w.extents) for expr in expressions]


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
    walk = _Walk(graph, kernel, w, domain, kept, reduced, inner, flat, values)
    if kernel.scheme == "split":
        from kernelevolve.translate.emit.split import write_split

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


def kept_axes(
    walk: _Walk, program: str = "tl.program_id(0)"
) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Declares the coordinates of the kept dimensions; (grid, knobs, derived constants).

    Args:
        program: which row, or tile of columns, a program has, as device source.
    """
    w, cast = walk.w, ".to(tl.int64)" if walk.kernel.wide else ""
    grid: list[str] = []
    constants: list[str] = []
    extents = [walk.extent(run) for run in walk.kept]
    if walk.inner:
        count = product(extents)
        if not walk.kept:
            w.tile = ((walk.axis_name, "BLOCK"),)
            return ["1"], [], []
        tile = walk.kernel.rows == "tile"
        row = w.axis("row", count, "row_in_range" if tile else None, tile=tile)
        if tile:
            w.reserve("row_in_range")
            w.line(f"row = ({program}{cast} * ROWS + tl.arange(0, ROWS))[:, None]")
            w.line(f"row_in_range = row < {w.size(count)}")
            w.tile = (("row", "ROWS"), ("column", "BLOCK"))
            grid.append(f"triton.cdiv({text(count)}, {{ROWS}})")
            constants.append("ROWS")
        else:
            w.line(f"row = {program}{cast}")
            w.tile = (("column", "BLOCK"),)
            grid.append(text(count))
        walk.values |= _spread(walk, walk.kept, unflatten(row, extents, w.extents))
        return grid, constants, []
    last = extents[-1]
    column = w.axis("column", last, "column_in_range", tile=True)
    w.line(f"program = {program}{cast}")
    tiles = f"triton.cdiv({text(last)}, {{COLUMNS}})"
    places = [column]
    where = "program"
    if len(walk.kept) > 1:
        count = product(extents[:-1])
        outer = w.axis("outer", count, tile=False)
        w.line(f"column_tiles = tl.cdiv({w.size(last)}, COLUMNS)")
        w.line("outer = program // column_tiles")
        where, tiles = "(program % column_tiles)", f"{tiles} * {factor(count)}"
        places = [*unflatten(outer, extents[:-1], w.extents), column]
    w.line(f"column = ({where} * COLUMNS + tl.arange(0, COLUMNS))[None, :]")
    w.line(f"column_in_range = column < {w.size(last)}")
    w.tile = (("row", "BLOCK"), ("column", "COLUMNS"))
    grid.append(tiles)
    walk.values |= _spread(walk, walk.kept, places)
    return grid, ["COLUMNS"], []


def factor(expr: Expr) -> str:
    """Host source that can stand in a product."""
    source = text(expr)
    return source if source.isidentifier() or source.isdigit() else f"({source})"


def _spread(walk: _Walk, runs: list[list[int]], places: list[Expr]) -> dict[str, Expr]:
    chosen = spread_runs(walk.domain, runs, places, walk.w)
    wanted = {f"d{a}" for run in runs for a in run}
    return {name: expr for name, expr in chosen.items() if name in wanted}


def _arange(walk: _Walk) -> str:
    wide = ".to(tl.int64)" if walk.kernel.wide else ""
    suffix = ""
    if len(walk.w.tile) > 1:
        suffix = "[None, :]" if walk.inner else "[:, None]"
    return f"tl.arange(0, BLOCK){wide}{suffix}"


def levels(walk: _Walk) -> list[list[str]]:
    """The anchors grouped so that each level depends only on earlier ones."""
    graph, anchors = walk.graph, walk.kernel.anchors
    level: dict[str, int] = {}
    for anchor in anchors:
        inside = _ancestors(graph, anchor, walk.w.stored)
        level[anchor] = 1 + max((level[other] for other in anchors if other in inside and other in level), default=-1)
    return [[a for a in anchors if level[a] == k] for k in range(max(level.values()) + 1)]


def _ancestors(graph: Graph, name: str, stored: frozenset[str]) -> set[str]:
    found: set[str] = set()
    stack = list(graph.nodes[name].args)
    while stack:
        current = stack.pop()
        if current not in found and current not in stored:
            found.add(current)
            stack.extend(graph.nodes[current].args)
    return found


def position(walk: _Walk) -> Expr:
    """The row-major position within the reduced dimensions."""
    axes = walk.domain.reduced
    return flatten([walk.values[f"d{a}"] for a in axes], [walk.domain.shape[a] for a in axes])


def reducer(walk: _Walk, anchor: str) -> Reducer:
    """The reducer of an anchor."""
    node = walk.graph.nodes[anchor]
    source = walk.graph.nodes[node.args[0]]
    kept: frozenset[str] = frozenset().union(
        *(walk.w.axes_of(walk.values[f"d{a}"]) for a in walk.domain.kept), frozenset()
    )
    if len(walk.w.tile) > 1:
        kept |= frozenset((walk.w.tile[0][0] if walk.inner else walk.w.tile[1][0],))
    axis = 0 if len(walk.w.tile) == 1 or not walk.inner else 1
    dtype = computed(source.dtype)
    return Reducer(walk.w, node.fn, dtype, anchor, axis, kept)


def keep_results(walk: _Walk, anchor: str, found: list[Var]) -> None:
    """Makes an anchor's results available to later reads."""
    where = tuple(walk.at(list(walk.domain.kept_coordinates())))
    fn = walk.graph.nodes[anchor].fn
    results = to_results(fn, found, walk.w)
    names = results_of(walk.graph, anchor)
    if names == [anchor]:
        walk.w.results[anchor] = (where, results[0])
        return
    for name in names:
        walk.w.results[name] = (where, results[walk.graph.nodes[name].dims[0]])


def _one_pass(walk: _Walk) -> None:
    w = walk.w
    axis = walk.axis_name
    place = w.axis(axis, walk.length, f"{axis}_in_range", tile=True)
    w.reserve(f"{axis}_in_range")
    w.line(f"{axis} = {_arange(walk)}")
    w.line(f"{axis}_in_range = {axis} < {w.size(walk.length)}")
    walk.values |= _spread(walk, walk.reduced, unflatten(place, [walk.extent(r) for r in walk.reduced], w.extents))
    mask = w.mask_of(frozenset((axis,)))
    for level in levels(walk):
        for anchor in level:
            value = w.read(walk.graph.nodes[anchor].args[0], walk.at(walk.domain.coordinates()))
            r = reducer(walk, anchor)
            found = r.direct(value, mask, w.index(position(walk)), w.size(walk.length))
            keep_results(walk, anchor, found)
    store_all(walk, full=True)
    store_all(walk, full=False)


def store_all(walk: _Walk, *, full: bool) -> bool:
    """Stores the results that span the whole domain, or those of its kept part; False where there are none."""
    wanted = []
    for name in walk.kernel.stores:
        where = store_coordinates(walk.graph, walk.domain, name)
        assert where is not None, name
        if where[1] == full:
            wanted.append((name, where[0]))
    for name, place in wanted:
        at = walk.at(place)
        value = walk.w.read(name, at)
        walk.w.store(name, address(walk.graph, name, at), value)
    return bool(wanted)


def looped(walk: _Walk, begin: str | None = None, end: str | None = None) -> None:
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


class open_loop:  # noqa: N801 - reads as the statement it writes
    """Opens the loop over the reduced dimensions; the value is the mask of the block."""

    def __init__(self, walk: _Walk, begin: str | None, end: str | None) -> None:
        self.walk, self.begin, self.end = walk, begin, end

    def __enter__(self) -> str:
        walk, w = self.walk, self.walk.w
        axis = walk.axis_name
        if not walk.reduced:
            runs, last, outer_runs = [], ONE, []
        else:
            last, outer_runs = walk.extent(walk.reduced[-1]), walk.reduced[:-1]
            runs = walk.reduced
        size = w.size(last)
        header_end = f"tl.cdiv({size}, BLOCK)"
        if outer_runs:
            blocks = w.fresh("blocks")
            w.line(f"{blocks} = tl.cdiv({size}, BLOCK)")
            header_end = f"{w.size(product([walk.extent(r) for r in outer_runs]))} * {blocks}"
        step = w.fresh("step")
        if self.begin is not None:
            self.manager = w.loop(f"for {step} in range({self.begin}, {self.end}):")
        elif outer_runs:
            self.manager = w.loop(f"for {step} in range(0, {header_end}):")
        else:
            self.manager = w.loop(f"for {step} in range(0, {size}, BLOCK):")
        self.manager.__enter__()
        start = step if self.begin is None and not outer_runs else f"{step} * BLOCK"
        places: list[Expr] = []
        if outer_runs:
            count = product([walk.extent(r) for r in outer_runs])
            outer = w.axis("block_of", count, tile=False)
            wide = ".to(tl.int64)" if walk.kernel.wide else ""
            w.line(f"block_of = ({step} // {blocks}){wide}")
            start = f"({step} % {blocks}) * BLOCK"
            places = unflatten(outer, [walk.extent(r) for r in outer_runs], w.extents)
        place = w.axis(axis, last, f"{axis}_in_range", tile=True)
        w.reserve(f"{axis}_in_range")
        w.line(f"{axis} = {start} + {_arange(walk)}")
        w.line(f"{axis}_in_range = {axis} < {size}")
        if runs:
            walk.values |= _spread(walk, runs, [*places, place])
        return w.mask_of(frozenset((axis,)))

    def __exit__(self, *exception: object) -> None:
        self.manager.__exit__(None, None, None)


def close_loop(walk: _Walk) -> None:
    """Forgets the loop's coordinates."""
    walk.w.forget(walk.axis_name)


