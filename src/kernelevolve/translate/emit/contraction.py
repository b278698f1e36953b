"""Matrix products with what follows them: out[b, m, n] = epilogue(sum over k of a[b, m, k] * b[b, k, n]).

Operands are read through their views: a transposed or windowed operand is index arithmetic, not a copy. Programs walk
the result's tiles in groups of GROUP rows of tiles, so that neighbours share operands in the L2 cache, or row by row,
or column by column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.coordinates import substitute
from kernelevolve.translate.emit.body import Var, computed
from kernelevolve.translate.emit.functions import TRITON
from kernelevolve.translate.emit.grid import PER_UNIT, each_program, grid_of
from kernelevolve.translate.emit.layout import Domain, store_coordinates
from kernelevolve.translate.emit.reader import NotHere, Trace, address
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.expr import ONE, ZERO, Expr, symbol, text
from kernelevolve.translate.plan import Kernel


def domain(graph: Graph, anchor: str) -> Domain:
    """The result's iteration space (b, m, n)."""
    return Domain(graph.nodes[anchor].shape)


def epilogue_traces(graph: Graph, stored: frozenset[str], anchor: str, *names: str) -> bool:
    """True where the kernel of a contraction can compute and store these nodes."""
    return all(_traces(graph, stored, anchor, name) for name in names)


def _traces(graph: Graph, stored: frozenset[str], anchor: str, name: str) -> bool:
    space = domain(graph, anchor)
    where = store_coordinates(graph, space, name)
    if where is None:
        return False
    found = Trace(graph, stored, space.extents())
    found.results[anchor] = (tuple(space.coordinates()), frozenset(("d0", "d1", "d2")))
    try:
        found.read(name, where[0])
    except NotHere:
        return False
    return True


def operand_dtype(graph: Graph, name: str) -> str:
    """The dtype in which an operand enters the product: a value that was only widened stays narrow."""
    node = graph.nodes[name]
    while node.kind == "view":
        node = graph.nodes[node.args[0]]
    if node.kind == "map" and node.fn == "cast":
        return operand_dtype(graph, node.args[0])
    return node.dtype


def write(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> KernelSource:
    """Writes a contraction kernel."""
    anchor = graph.nodes[kernel.anchors[0]]
    w = Writer(graph, stored - set(kernel.stores), kernel.name)
    space = domain(graph, anchor.name)
    with each_program(w, kernel, tile_counts(w, kernel, anchor.shape)):
        places = open_tiles(w, kernel, anchor.shape)
        depth = graph.nodes[anchor.args[0]].shape[2]
        write_sum(w, graph, kernel, anchor.args, places, "0", w.size(depth))
        w.results[anchor.name] = (result_places(w, space, places), Var("total", frozenset(("m", "n")), "float32"))
        w.tile = (("m", "BLOCK_M"), ("n", "BLOCK_N"))
        store_each(w, graph, space, kernel.stores, places)
    constants = [name for name, _ in kernel.knobs if name.isupper() and name != PER_UNIT]
    grid, before = grid_of(kernel, product_tiles(anchor.shape))
    return finish(w, kernel, Launch((grid,), tuple(constants), (), before))


def tile_counts(w: Writer, kernel: Kernel, shape: tuple[Expr, ...]) -> str:
    """Writes `row_tiles` and `column_tiles` of the result (b, m, n); returns how many tiles a persistent grid walks."""
    batch, rows, columns = shape
    for name in ("program", "row_tiles", "column_tiles", "group", "first_row", "group_rows", "row_tile", "column_tile"):
        w.reserve(name)
    for name in ("tile", "batch_index", "turn", "turns"):
        w.reserve(name)
    w.line(f"row_tiles = tl.cdiv({w.size(rows)}, BLOCK_M)")
    w.line(f"column_tiles = tl.cdiv({w.size(columns)}, BLOCK_N)")
    every = kernel.persistent and batch != ONE
    return f"row_tiles * column_tiles * {w.size(batch)}" if every else "row_tiles * column_tiles"


def open_tiles(w: Writer, kernel: Kernel, shape: tuple[Expr, ...]) -> dict[str, Expr]:
    """Writes which tile of the result (b, m, n) `program` has, and `total`; returns the result's coordinates."""
    batch, rows, columns = shape
    cast = ".to(tl.int64)" if kernel.wide else ""
    tile = "program"
    if batch != ONE:
        w.line("batch_index = program // (row_tiles * column_tiles)")
        w.line("tile = program % (row_tiles * column_tiles)")
        tile = "tile"
    _order(w, kernel, tile)
    b = ZERO
    if batch != ONE:
        b = w.axis("batch", batch, tile=False)
        w.line(f"batch = batch_index{cast}")
    m = w.axis("m", rows, "m_in_range", tile=True)
    n = w.axis("n", columns, "n_in_range", tile=True)
    for mask in ("m_in_range", "n_in_range"):
        w.reserve(mask)
    w.line(f"m = (row_tile{cast} * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]")
    w.line(f"n = (column_tile{cast} * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]")
    w.line(f"m_in_range = m < {w.size(rows)}")
    w.line(f"n_in_range = n < {w.size(columns)}")
    w.reserve("total")
    w.line("total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)")
    return {"d0": b, "d1": m, "d2": n}


def _order(w: Writer, kernel: Kernel, tile: str) -> None:
    """Writes `row_tile` and `column_tile`."""
    if kernel.order == "rows":
        w.line(f"row_tile = {tile} // column_tiles")
        w.line(f"column_tile = {tile} % column_tiles")
        return
    if kernel.order == "columns":
        w.line(f"row_tile = {tile} % row_tiles")
        w.line(f"column_tile = {tile} // row_tiles")
        return
    w.line(f"group = {tile} // (GROUP * column_tiles)")
    w.line("first_row = group * GROUP")
    w.line("group_rows = tl.minimum(row_tiles - first_row, GROUP)")
    w.line(f"row_tile = first_row + ({tile} % (GROUP * column_tiles)) % group_rows")
    w.line(f"column_tile = ({tile} % (GROUP * column_tiles)) // group_rows")


def result_places(w: Writer, space: Domain, places: dict[str, Expr]) -> tuple[Expr, ...]:
    """The coordinates at which a program has the product."""
    return tuple(substitute(c, places, w.extents) for c in space.coordinates())


def product_tiles(shape: tuple[Expr, ...]) -> str:
    """How many tiles all batches have, as host source; a grid's one dimension, since others hold 65535 at most."""
    batch, rows, columns = shape
    tiles = f"triton.cdiv({text(rows)}, {{BLOCK_M}}) * triton.cdiv({text(columns)}, {{BLOCK_N}})"
    return tiles if batch == ONE else f"{tiles} * ({text(batch)})"


def write_sum(
    w: Writer, graph: Graph, kernel: Kernel, operands: Sequence[str], places: dict[str, Expr], begin: str, end: str
) -> None:
    """Writes the loop that adds the products of positions from ``begin`` to ``end`` to `total`."""
    b, m, n = (places[f"d{axis}"] for axis in range(3))
    depth = graph.nodes[operands[0]].shape[2]
    w.reserve("start")
    wide = ".to(tl.int64)" if kernel.wide else ""
    with w.loop(f"for start in range({begin}, {end}, BLOCK_K):"):
        for name, suffix in (("k_of_a", "[None, :]"), ("k_of_b", "[:, None]")):
            w.axis(name, depth, f"{name}_in_range", tile=True)
            w.reserve(f"{name}_in_range")
            w.line(f"{name} = (start + tl.arange(0, BLOCK_K){wide}){suffix}")
            w.line(f"{name}_in_range = {name} < {w.size(depth)}")
        k_of_a, k_of_b = (symbol(name) for name in ("k_of_a", "k_of_b"))
        w.tile = (("m", "BLOCK_M"), ("k_of_a", "BLOCK_K"))
        a = _operand(w, graph, operands[0], [b, m, k_of_a])
        w.tile = (("k_of_b", "BLOCK_K"), ("n", "BLOCK_N"))
        right = _operand(w, graph, operands[1], [b, k_of_b, n])
        precision = ""
        if "PRECISION" in dict(kernel.knobs):
            precision = ", input_precision=PRECISION"
        w.line(f"total = tl.dot({a}, {right}, total{precision})")
    w.forget("k_of_a", "k_of_b")


def _operand(w: Writer, graph: Graph, name: str, at: Iterable[Expr]) -> str:
    value = w.read(name, list(at))
    dtype = operand_dtype(graph, name)
    source = w.full(value)
    if computed(dtype) != dtype:
        source = f"{source}.to({TRITON[dtype]})"
    return source


def store_each(
    w: Writer, graph: Graph, space: Domain, stores: Iterable[str], places: dict[str, Expr]
) -> None:
    """Computes and stores every result at the current coordinates."""
    for name in stores:
        where = store_coordinates(graph, space, name)
        assert where is not None, name
        at = [substitute(expr, places, w.extents) for expr in where[0]]
        value = w.read(name, at)
        w.store(name, address(graph, name, at), value)
