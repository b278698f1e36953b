"""A walk over one domain: what every reduction kernel is made of.

In: a domain whose dimensions are kept or reduced. Out: its coordinates, masks, loops, reducers and stores, as lines of
the kernel's writer. Which loops stand in which order is left to the schemes (`reduction`, `split`).
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.coordinates import flatten, substitute, unflatten
from kernelevolve.translate.emit.body import Var, computed
from kernelevolve.translate.emit.layout import Domain, results_of, store_coordinates
from kernelevolve.translate.emit.pointwise import spread_runs
from kernelevolve.translate.emit.reader import address
from kernelevolve.translate.emit.reducers import Reducer, to_results
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.expr import ONE, Expr, product, text
from kernelevolve.translate.plan import Kernel


@dataclass
class Walk:
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


def kept_axes(walk: Walk, program: str = "tl.program_id(0)") -> tuple[list[str], list[str], list[tuple[str, str]]]:
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
        walk.values |= spread(walk, walk.kept, unflatten(row, extents, w.extents))
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
    walk.values |= spread(walk, walk.kept, places)
    return grid, ["COLUMNS"], []


def factor(expr: Expr) -> str:
    """Host source that can stand in a product."""
    source = text(expr)
    return source if source.isidentifier() or source.isdigit() else f"({source})"


def spread(walk: Walk, runs: list[list[int]], places: list[Expr]) -> dict[str, Expr]:
    """The domain's coordinates of these runs, from one place in each."""
    chosen = spread_runs(walk.domain, runs, places, walk.w)
    wanted = {f"d{a}" for run in runs for a in run}
    return {name: expr for name, expr in chosen.items() if name in wanted}


def arange(walk: Walk) -> str:
    """Device source of the positions within one block of the reduced axis."""
    wide = ".to(tl.int64)" if walk.kernel.wide else ""
    suffix = ""
    if len(walk.w.tile) > 1:
        suffix = "[None, :]" if walk.inner else "[:, None]"
    return f"tl.arange(0, BLOCK){wide}{suffix}"


def levels(walk: Walk) -> list[list[str]]:
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


def position(walk: Walk) -> Expr:
    """The row-major position within the reduced dimensions."""
    axes = walk.domain.reduced
    return flatten([walk.values[f"d{a}"] for a in axes], [walk.domain.shape[a] for a in axes])


def reducer(walk: Walk, anchor: str) -> Reducer:
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


def keep_results(walk: Walk, anchor: str, found: list[Var]) -> None:
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


def store_all(walk: Walk, *, full: bool) -> bool:
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


class open_loop:  # noqa: N801 - reads as the statement it writes
    """Opens the loop over the reduced dimensions; the value is the mask of the block."""

    def __init__(self, walk: Walk, begin: str | None, end: str | None) -> None:
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
        w.line(f"{axis} = {start} + {arange(walk)}")
        w.line(f"{axis}_in_range = {axis} < {size}")
        if runs:
            walk.values |= spread(walk, runs, [*places, place])
        return w.mask_of(frozenset((axis,)))

    def __exit__(self, *exception: object) -> None:
        self.manager.__exit__(None, None, None)


def close_loop(walk: Walk) -> None:
    """Forgets the loop's coordinates."""
    walk.w.forget(walk.axis_name)
