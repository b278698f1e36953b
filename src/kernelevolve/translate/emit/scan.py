"""Running sums and products along one dimension, in blocks that carry the total so far.

Each program takes one line along the scanned dimension.
"""

from __future__ import annotations

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.coordinates import substitute, unflatten
from kernelevolve.translate.emit.body import Var, computed
from kernelevolve.translate.emit.functions import TRITON
from kernelevolve.translate.emit.layout import Domain, store_coordinates
from kernelevolve.translate.emit.reader import NotHere, Trace, address
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.expr import ZERO, Expr, product, symbol, text
from kernelevolve.translate.plan import Kernel


def epilogue_traces(graph: Graph, stored: frozenset[str], anchor: str, *names: str) -> bool:
    """True where the kernel of a scan can compute and store these nodes."""
    space = Domain(graph.nodes[anchor].shape)
    for name in names:
        where = store_coordinates(graph, space, name)
        if where is None:
            return False
        found = Trace(graph, stored, space.extents())
        found.results[anchor] = (tuple(space.coordinates()), frozenset(space.extents()))
        try:
            found.read(name, where[0])
        except NotHere:
            return False
    return True


def write(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> KernelSource:
    """Writes a scan kernel."""
    anchor = graph.nodes[kernel.anchors[0]]
    space, dim = Domain(anchor.shape), anchor.dims[0]
    w = Writer(graph, stored - set(kernel.stores), kernel.name)
    cast = ".to(tl.int64)" if kernel.wide else ""
    others = [axis for axis in range(len(anchor.shape)) if axis != dim]
    lines = product([anchor.shape[a] for a in others])
    w.axis("line", lines, tile=False)
    w.line(f"line = tl.program_id(0){cast}")
    places: dict[str, Expr] = {f"d{axis}": ZERO for axis in range(len(anchor.shape))}
    line_at = unflatten(symbol("line"), [anchor.shape[a] for a in others], w.extents)
    places |= {f"d{axis}": place for axis, place in zip(others, line_at, strict=True)}
    dtype = computed(anchor.dtype)
    neutral = ("1" if anchor.fn == "prod" else "0") + (".0" if "float" in dtype else "")
    for name in ("carry", "start", "running"):
        w.reserve(name)
    w.line(f"carry = tl.full((), {neutral}, {TRITON[dtype]})")
    w.tile = (("position", "BLOCK"),)
    with w.loop(f"for start in range(0, {w.size(anchor.shape[dim])}, BLOCK):"):
        w.reserve("in_range")
        place = w.axis("position", anchor.shape[dim], "in_range", tile=True)
        w.line(f"position = start + tl.arange(0, BLOCK){cast}")
        w.line(f"in_range = position < {w.size(anchor.shape[dim])}")
        places[f"d{dim}"] = place
        at = [substitute(c, places, w.extents) for c in space.coordinates()]
        value = w.full(w.read(anchor.args[0], at))
        how, joined = ("cumprod", "*") if anchor.fn == "prod" else ("cumsum", "+")
        w.line(f"running = carry {joined} tl.{how}(tl.where(in_range, {value}, {neutral}), axis=0)")
        if anchor.fn == "prod":
            w.uses.add("multiply")
            w.line(f"carry = carry * tl.reduce(tl.where(in_range, {value}, {neutral}), 0, multiply)")
        else:
            w.line(f"carry += tl.sum(tl.where(in_range, {value}, {neutral}), axis=0)")
        w.results[anchor.name] = (tuple(at), Var("running", frozenset(("position",)), dtype))
        for name in kernel.stores:
            where = store_coordinates(graph, space, name)
            assert where is not None, name
            target = [substitute(expr, places, w.extents) for expr in where[0]]
            w.store(name, address(graph, name, target), w.read(name, target))
    return finish(w, kernel, Launch((text(lines),), ("BLOCK",)))
