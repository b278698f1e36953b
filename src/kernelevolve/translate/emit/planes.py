"""Strict fp32 matrix products on fp16 tensor cores: each operand is split once into two planes, planes are multiplied.

In: a contraction of fp32 operands. Out: three kernels, two that split and one that multiplies, with their launches.
What follows the product is written as `contraction` writes it.

A *line* is what an operand's scale belongs to: a row of a, a column of b. Along a line K is cut into tiles. Each tile
of a line has a power of two that brings its largest element just below fp16's limit, so scaling is exact. With s the
scaled value, high = fp16(s) and low = fp16(2^11 (s - high)): together 22 bits, and elements of one tile may span ten
decades. The product is high * high + 2^-11 (low * high + high * low); what is left out is below 2^-22 of it. Tensor
cores round their accumulator toward zero at each step, a bias that grows with K; so each tile's sum starts at zero and
is added in ordinary fp32, which is also where the scales are applied. After Ootomo and Yokota, "Recovering single
precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance" (2022).

Infinities and NaN: low planes hold 0 for them, so a product may become NaN where fp32 gives an infinity. A tile of the
result with a value that is not finite is computed again from the high planes alone, which have fp32's pattern: no
nonzero element has a high plane of zero.

Planes are scratch memory, (plane, batch, line, k) or (plane, batch, k, line) after the operand's own order, with K
padded by zeros to whole tiles and rows to 16 bytes, as the copy engine wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.emit.body import Var
from kernelevolve.translate.emit.contraction import (
    domain,
    open_tiles,
    operand_dtype,
    product_tiles,
    result_places,
    store_each,
    tile_counts,
)
from kernelevolve.translate.emit.grid import PER_UNIT, each_program, grid_of
from kernelevolve.translate.emit.layout import crossing
from kernelevolve.translate.emit.reader import Trace
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.expr import ONE, ZERO, Expr, symbol, text
from kernelevolve.translate.plan import Kernel

#: A tile's largest element is scaled into [2^14, 2^15), below fp16's 65504.
TOP_EXPONENT = 14
#: The largest scale, 2^63: the product of two inverse scales stays a normal fp32 number.
LARGEST_SHIFT = 63
#: fp16's bits of significand: the low plane is kept 2^11 higher.
LOW_SCALE = 2.0**11
#: fp16's smallest positive value.
TINIEST = 2.0**-24

_SPLIT_VARIABLES = (
    "k_tile", "k_tiles", "line_tile", "line_tiles", "batches", "line_in_range", "position_in_range", "finite",
    "largest", "exponent", "shift", "scaled", "high", "low", "tiniest", "row_length", "plane", "place", "inverse",
    "planes_ptr", "scales_ptr",
)  # fmt: skip
_PRODUCT_VARIABLES = (
    "start", "part", "plain", "is_finite", "left_tiles", "right_tiles", "left_first", "right_first", "left_row",
    "right_row", "left_low_row", "right_low_row", "left_high", "right_high", "left_low", "right_low", "left_scale",
    "right_scale", "left_scales_ptr", "right_scales_ptr", "left_factor", "right_factor",
)  # fmt: skip


@dataclass(frozen=True)
class Operand:
    """One operand and how its planes lie.

    Attributes:
        side: ``left`` or ``right``.
        node: its name in the graph.
        lines: how many lines it has: rows of a, columns of b.
        depth: K.
        batch: 1 where all batches share it.
        along_k: whether K is the planes' last dimension; else it is the lines.
    """

    side: str
    node: str
    lines: Expr
    depth: Expr
    batch: Expr
    along_k: bool

    def at(self, batch: Expr, line: Expr, k: Expr) -> list[Expr]:
        """The operand's coordinates."""
        return [batch, line, k] if self.side == "left" else [batch, k, line]


def covers(graph: Graph, anchor: str) -> bool:
    """True where both operands are fp32."""
    return all(operand_dtype(graph, arg) == "float32" for arg in graph.nodes[anchor].args)


def operands(graph: Graph, stored: frozenset[str], anchor: str) -> tuple[Operand, Operand]:
    """Both operands of a contraction."""
    node = graph.nodes[anchor]
    batch, rows, columns = node.shape
    depth = graph.nodes[node.args[0]].shape[2]
    found = []
    for side, name, lines, k_axis in (("left", node.args[0], rows, 2), ("right", node.args[1], columns, 1)):
        traced = Trace(graph, stored, {f"d{axis}": size for axis, size in enumerate(graph.nodes[name].shape)})
        depends = traced.read(name, [symbol(f"d{axis}") for axis in range(3)])
        shared = batch == ONE or not (_names(traced) | depends) & {"d0"}
        along_k = crossing(traced, (k_axis,), (3 - k_axis,)) >= crossing(traced, (3 - k_axis,), (k_axis,))
        found.append(Operand(side, name, lines, depth, ONE if shared else batch, along_k))
    return found[0], found[1]


def _names(traced: Trace) -> frozenset[str]:
    parts = [a.offset.names() for a in traced.accesses] + [e.names() for e in traced.others]
    return frozenset().union(*parts)


def write(graph: Graph, kernel: Kernel, stored: frozenset[str]) -> list[KernelSource]:
    """Writes the kernels that split and the one that multiplies."""
    both = operands(graph, stored - set(kernel.stores), kernel.anchors[0])
    splits = [_Split(graph, kernel, stored, operand).write() for operand in both]
    return [*splits, _product(graph, kernel, stored, both)]


class _Host:
    """Host variables and expressions of one operand's planes; knobs in braces."""

    def __init__(self, kernel: Kernel, operand: Operand) -> None:
        self.operand = operand
        self.stem = f"{kernel.name.removesuffix('_kernel')}_{operand.side}"
        self.planes, self.scales, self.tiles = f"{self.stem}_planes", f"{self.stem}_scales", f"{self.stem}_tiles"

    def depth(self) -> str:
        """K in whole tiles, in elements."""
        return f"triton.cdiv({text(self.operand.depth)}, {{BLOCK_K}}) * {{BLOCK_K}}"

    def allocate(self) -> tuple[str, ...]:
        """The lines that allocate planes and scales."""
        o = self.operand
        lines = f"2 * {_factor(o.batch)}"
        shape = f"{lines}{_factor(o.lines, '')}, {self.depth()}"
        if not o.along_k:
            shape = f"{lines}{self.depth()}, triton.cdiv({text(o.lines)}, 8) * 8"
        scales = f"{_factor(o.batch)}triton.cdiv({text(o.depth)}, {{BLOCK_K}}), {text(o.lines)}"
        return (
            f"{self.planes} = torch.empty(({shape}), dtype=torch.float16, device=device)",
            f"{self.scales} = torch.empty(({scales}), dtype=torch.float32, device=device)",
        )

    def describe(self) -> str:
        """The line that makes the planes' descriptor."""
        o = self.operand
        block = "BLOCK_M" if o.side == "left" else "BLOCK_N"
        width = f"{self.planes}.shape[1]" if o.along_k else text(o.lines)
        blocks = f"{{{block}}}, {{BLOCK_K}}" if o.along_k else f"{{BLOCK_K}}, {{{block}}}"
        shape = f"[{self.planes}.shape[0], {width}]"
        return f"{self.tiles} = TensorDescriptor({self.planes}, {shape}, [{self.planes}.shape[1], 1], [{blocks}])"


def _factor(size: Expr, times: str = " * ") -> str:
    if size == ONE and times:
        return ""
    source = text(size)
    return (f"({source})" if " " in source else source) + times


class _Split:
    """The kernel that splits one operand: one program per tile of lines and K."""

    def __init__(self, graph: Graph, kernel: Kernel, stored: frozenset[str], operand: Operand) -> None:
        self.graph, self.kernel, self.operand, self.host = graph, kernel, operand, _Host(kernel, operand)
        self.name = f"{self.host.stem}_split_kernel"
        self.w = Writer(graph, stored - set(kernel.stores), self.name)
        for variable in _SPLIT_VARIABLES:
            self.w.reserve(variable)

    def write(self) -> KernelSource:
        """The kernel and its launch."""
        w, o = self.w, self.operand
        value = self._read()
        self._scale(value)
        self._store()
        line_tiles = f"triton.cdiv({text(o.lines)}, {{SPLIT_LINES}})"
        line_tiles = line_tiles if o.batch == ONE else f"{line_tiles} * ({text(o.batch)})"
        grid = (line_tiles, f"triton.cdiv({text(o.depth)}, {{BLOCK_K}})")
        about = (
            f"Splits the {o.side} operand into fp16 planes: high, and 2^11 times what high leaves.\n\n"
            "Each tile of BLOCK_K elements of each line is scaled by a power of two; its inverse is stored."
        )
        extra = (("planes_ptr", self.host.planes), ("scales_ptr", self.host.scales))
        launch = Launch(grid, ("SPLIT_LINES", "BLOCK_K"), (), self.host.allocate(), extra)
        return finish(w, self.kernel, launch, name=self.name, about=about)

    def _read(self) -> str:
        w, o = self.w, self.operand
        wide = ".to(tl.int64)" if self.kernel.wide else ""
        line = w.axis("line", o.lines, "line_in_range", tile=True)
        k = w.axis("position", o.depth, "position_in_range", tile=True)
        batch = ZERO
        w.line("k_tile = tl.program_id(1)")
        w.line(f"line_tiles = tl.cdiv({w.size(o.lines)}, SPLIT_LINES)")
        if o.batch != ONE:
            batch = w.axis("batch", o.batch, tile=False)
            w.line(f"batch = (tl.program_id(0) // line_tiles){wide}")
        w.line(f"line_tile = (tl.program_id(0) % line_tiles){wide}")
        w.line("line = (line_tile * SPLIT_LINES + tl.arange(0, SPLIT_LINES))[:, None]")
        w.line(f"position = (k_tile{wide} * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]")
        w.line(f"line_in_range = line < {w.size(o.lines)}")
        w.line(f"position_in_range = position < {w.size(o.depth)}")
        w.tile = (("line", "SPLIT_LINES"), ("position", "BLOCK_K"))
        return w.full(w.read(o.node, o.at(batch, line, k)))

    def _scale(self, value: str) -> None:
        """Writes `scaled`, `high`, `low` and `shift`."""
        w = self.w
        x = w.fresh("element_value")
        w.line(f"{x} = tl.where(line_in_range & position_in_range, {value}, 0.0)")
        w.line(f'finite = tl.abs({x}) < float("inf")')
        w.line(f"largest = tl.max(tl.where(finite, tl.abs({x}), 0.0), 1)")
        w.line("exponent = (largest.to(tl.int32, bitcast=True) >> 23) - 127")
        w.line(f"shift = tl.minimum({TOP_EXPONENT} - exponent, {LARGEST_SHIFT})")
        w.line(f"scaled = {x} * ((shift + 127) << 23).to(tl.float32, bitcast=True)[:, None]")
        w.line("high = scaled.to(tl.float16)")
        w.line("# Infinity times a nonzero element must stay an infinity: its high plane may not be zero.")
        w.line(f"tiniest = tl.where({x} > 0, {TINIEST!r}, -{TINIEST!r}).to(tl.float16)")
        w.line(f"high = tl.where((high == 0.0) & ({x} != 0.0), tiniest, high)")
        w.line(f"low = tl.where(finite, (scaled - high.to(tl.float32)) * {LOW_SCALE!r}, 0.0).to(tl.float16)")

    def _store(self) -> None:
        w, o = self.w, self.operand
        wide = ".to(tl.int64)" if self.kernel.wide else ""
        lines, depth = w.size(o.lines), w.size(o.depth)
        w.line(f"k_tiles = tl.cdiv({depth}, BLOCK_K)")
        if o.along_k:
            w.line("row_length = k_tiles * BLOCK_K")
            w.line(f"plane = row_length * {lines}")
            place = "line * row_length + position"
        else:
            w.line(f"row_length = tl.cdiv({lines}, 8) * 8")
            w.line("plane = row_length * k_tiles * BLOCK_K")
            place = "position * row_length + line"
        w.line("# Two planes may hold more elements than 32 bits count, even where the operand does not.")
        start = "" if o.batch == ONE else "batch.to(tl.int64) * plane + "
        w.line(f"place = planes_ptr + {start}({place})")
        w.line("tl.store(place, high, mask=line_in_range)")
        w.line("batches = tl.num_programs(0).to(tl.int64) // line_tiles")
        w.line("tl.store(place + batches * plane, low, mask=line_in_range)")
        tile = "k_tile" if o.batch == ONE else "(batch * k_tiles + k_tile)"
        w.line("inverse = ((127 - shift) << 23).to(tl.float32, bitcast=True)[:, None]")
        w.line(f"tl.store(scales_ptr + {tile}{wide} * {lines} + line, inverse, mask=line_in_range)")


def _product(graph: Graph, kernel: Kernel, stored: frozenset[str], both: tuple[Operand, Operand]) -> KernelSource:
    anchor = graph.nodes[kernel.anchors[0]]
    w = Writer(graph, stored - set(kernel.stores), kernel.name)
    for variable in _PRODUCT_VARIABLES:
        w.reserve(variable)
    counts = tile_counts(w, kernel, anchor.shape)
    depth = w.size(both[0].depth)
    hosts = [_Host(kernel, operand) for operand in both]
    space = domain(graph, anchor.name)
    with each_program(w, kernel, counts):
        places = open_tiles(w, kernel, anchor.shape)
        for operand in both:
            _origin(w, operand, depth)
        _sum(w, both, depth)
        _again(w, both, depth)
        w.results[anchor.name] = (result_places(w, space, places), Var("total", frozenset(("m", "n")), "float32"))
        w.tile = (("m", "BLOCK_M"), ("n", "BLOCK_N"))
        store_each(w, graph, space, kernel.stores, places)
    extra = [(f"{o.side}_tiles", h.tiles) for o, h in zip(both, hosts, strict=True)]
    extra += [(f"{o.side}_scales_ptr", h.scales) for o, h in zip(both, hosts, strict=True)]
    constants = [name for name, _ in kernel.knobs if name.isupper() and name not in ("SPLIT_LINES", PER_UNIT)]
    grid, before = grid_of(kernel, product_tiles(anchor.shape))
    launch = Launch((grid,), tuple(constants), (), (*before, *(h.describe() for h in hosts)), tuple(extra))
    w.uses.add("TensorDescriptor")
    return finish(w, kernel, launch)


def _origin(w: Writer, o: Operand, depth: str) -> None:
    """Writes the first row of an operand's planes, and where its scales start."""
    first = "row_tile * BLOCK_M" if o.side == "left" else "column_tile * BLOCK_N"
    line = "m" if o.side == "left" else "n"
    height = w.size(o.lines) if o.along_k else f"tl.cdiv({depth}, BLOCK_K) * BLOCK_K"
    batches = "" if o.batch == ONE else f"{w.size(o.batch)} * "
    w.line(f"{o.side}_first = {first}")
    w.line(f"{o.side}_row = {'0' if o.batch == ONE else f'batch_index * ({height})'}")
    w.line(f"{o.side}_low_row = {o.side}_row + {batches}{height}")
    start = "" if o.batch == ONE else f"batch * tl.cdiv({depth}, BLOCK_K) * {w.size(o.lines)} + "
    w.line(f"{o.side}_scale = {o.side}_scales_ptr + {start}{line}")


def _sum(w: Writer, both: tuple[Operand, Operand], depth: str) -> None:
    with w.loop(f"for start in range(0, {depth}, BLOCK_K):"):
        for o in both:
            w.line(f"{o.side}_high = {_tile(o, 'row')}")
            w.line(f"{o.side}_low = {_tile(o, 'low_row')}")
        _scales(w, both)
        w.line("part = tl.dot(left_low, right_high)")
        w.line("part = tl.dot(left_high, right_low, part)")
        w.line(f"part = tl.dot(left_high, right_high, part * {1 / LOW_SCALE!r})")
        w.line("total += part * (left_factor * right_factor)")


def _again(w: Writer, both: tuple[Operand, Operand], depth: str) -> None:
    """Writes the second computation, for tiles in which a value is not finite."""
    w.line('is_finite = (tl.abs(total) < float("inf")) | ~(m_in_range & n_in_range)')
    with w.loop("if tl.min(tl.min(is_finite.to(tl.int32), 1), 0) == 0:"):
        w.line("plain = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)")
        with w.loop(f"for start in tl.range(0, {depth}, BLOCK_K, num_stages=1):"):
            for o in both:
                w.line(f"{o.side}_high = {_tile(o, 'row')}")
            _scales(w, both)
            w.line("plain += tl.dot(left_high, right_high) * (left_factor * right_factor)")
        w.line("total = tl.where(is_finite, total, plain)")


def _tile(o: Operand, row: str) -> str:
    """One tile of a plane, (BLOCK_M, BLOCK_K) or (BLOCK_K, BLOCK_N)."""
    first, row = f"{o.side}_first", f"{o.side}_{row}"
    place = f"[{row} + {first}, start]" if o.along_k else f"[{row} + start, {first}]"
    turned = ".T" if o.along_k != (o.side == "left") else ""
    return f"{o.side}_tiles.load({place}){turned}"


def _scales(w: Writer, both: tuple[Operand, Operand]) -> None:
    for o in both:
        mask = "m_in_range" if o.side == "left" else "n_in_range"
        place = f"{o.side}_scale + start // BLOCK_K * {w.size(o.lines)}"
        w.line(f"{o.side}_factor = tl.load({place}, mask={mask}, other=0.0)")
