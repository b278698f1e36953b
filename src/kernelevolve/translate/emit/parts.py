"""Matrix products with few tiles and long sums: every sum is cut into parts, which fill the device, and added after.

The first kernel gives each part of a tile's sum to a program of its own and keeps the partial sums in memory, as
(parts, b, m, n) in fp32. The second adds them in order of the parts and computes what follows from the product. Nothing
is added atomically, so the result is the same in every run.
"""

from __future__ import annotations

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.coordinates import flatten, unflatten
from kernelevolve.translate.emit.body import Var
from kernelevolve.translate.emit.contraction import (
    domain,
    open_tiles,
    product_tiles,
    result_places,
    store_each,
    tile_counts,
    write_sum,
)
from kernelevolve.translate.emit.grid import each_program
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.expr import ONE, ZERO, Expr, product, text
from kernelevolve.translate.plan import Kernel

#: Knob of the second kernel: elements per program.
SUM_BLOCK = "SUM_BLOCK"


def write(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> list[KernelSource]:
    """Writes both kernels."""
    return [_partial_sums(graph, kernel, stored), _total(graph, kernel, stored)]


def _host(kernel: Kernel) -> str:
    """The host variable with the partial sums."""
    return f"{kernel.name.removesuffix('_kernel')}_sums"


def _partial_sums(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> KernelSource:
    anchor = graph.nodes[kernel.anchors[0]]
    depth = graph.nodes[anchor.args[0]].shape[2]
    name = kernel.name.removesuffix("_kernel") + "_parts_kernel"
    w = Writer(graph, stored - set(kernel.stores), name)
    for variable in ("part", "steps", "per_part", "begin", "end", "sums_ptr"):
        w.reserve(variable)
    cast = ".to(tl.int64)" if kernel.wide else ""
    with each_program(w, kernel, tile_counts(w, kernel, anchor.shape)):
        places = open_tiles(w, kernel, anchor.shape)
        w.line(f"part = tl.program_id(1){cast}")
        w.line(f"per_part = tl.cdiv(tl.cdiv({w.size(depth)}, BLOCK_K), PARTS) * BLOCK_K")
        w.line("begin = part * per_part")
        w.line(f"end = tl.minimum(begin + per_part, {w.size(depth)})")
        write_sum(w, graph, kernel, anchor.args, places, "begin", "end")
        place = w.index(flatten([places[f"d{axis}"] for axis in range(3)], list(anchor.shape)))
        w.line(f"sums = sums_ptr + part * {w.size(product(anchor.shape))} + {place}")
        w.line("tl.store(sums, total, mask=m_in_range & n_in_range)")
    count = text(product(anchor.shape))
    before = f"{_host(kernel)} = torch.empty(({{PARTS}}, {count}), dtype=torch.float32, device=device)"
    constants = [knob for knob, _ in kernel.knobs if knob.isupper() and knob != SUM_BLOCK]
    grid = (product_tiles(anchor.shape), "{PARTS}")
    launch = Launch(grid, tuple(constants), (), (before,), (("sums_ptr", _host(kernel)),))
    about = f"Computes the partial sums of `{anchor.name}`."
    return finish(w, kernel, launch, name=name, about=about)


def _total(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> KernelSource:
    anchor = graph.nodes[kernel.anchors[0]]
    w = Writer(graph, stored - set(kernel.stores), kernel.name)
    count = product(anchor.shape)
    for name in ("program", "part", "total", "in_range", "sums_ptr"):
        w.reserve(name)
    element = w.axis("element", count, "in_range", tile=True)
    w.tile = (("element", SUM_BLOCK),)
    w.line("program = tl.program_id(0)" + (".to(tl.int64)" if kernel.wide else ""))
    w.line(f"element = program * {SUM_BLOCK} + tl.arange(0, {SUM_BLOCK})")
    w.line(f"in_range = element < {w.size(count)}")
    w.line(f"total = tl.zeros([{SUM_BLOCK}], tl.float32)")
    with w.loop("for part in range(0, PARTS):"):
        w.line(f"total += tl.load(sums_ptr + part * {w.size(count)} + element, mask=in_range, other=0.0)")
    axes = [axis for axis, size in enumerate(anchor.shape) if size != ONE]
    places: dict[str, Expr] = {f"d{axis}": ZERO for axis in range(3)}
    spread = unflatten(element, [anchor.shape[axis] for axis in axes], w.extents)
    places |= {f"d{axis}": place for axis, place in zip(axes, spread, strict=True)}
    space = domain(graph, anchor.name)
    w.results[anchor.name] = (result_places(w, space, places), Var("total", frozenset(("element",)), "float32"))
    store_each(w, graph, space, kernel.stores, places)
    grid = f"triton.cdiv({text(count)}, {{{SUM_BLOCK}}})"
    return finish(w, kernel, Launch((grid,), ("PARTS", SUM_BLOCK), (), (), (("sums_ptr", _host(kernel)),)))
