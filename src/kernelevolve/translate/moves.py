"""Moves: other plans for the same program, one structural change away, in the order that a diagnosis suggests.

In: a program, a plan, what limits its kernel, the keys of plans that were tried. Out: `Move` values. Left to others:
writing the plan (`render`), numbers inside a plan (they are knobs, and the tuner's), whether a move was worth it (only
measuring tells).

Every move is an honest alternative and none is a win by construction. A move that the plan cannot take is not offered,
nor one that only reorders the values of a knob, which the tuner does anyway; a move may leave a knob one value, so that
the others are tuned around it. A move whose kernel turns out wrong or slow is rejected by the ladder and stays in the
log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.emit.layout import Domain, domain_of
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import product
from kernelevolve.translate.first import Chooser, plan_with, precisions
from kernelevolve.translate.ir import Program
from kernelevolve.translate.lower import lower
from kernelevolve.translate.plan import Kernel, Knob, Plan

#: Threads that share an instruction.
LANES = {"nvidia": 32, "amd": 64}
#: The longest row, and column, that one program is given at once.
LONGEST_ROW, LONGEST_COLUMN = 65536, 1024
#: The shortest row that several programs share.
SHORTEST_SPLIT = 4096


@dataclass(frozen=True)
class Move:
    """One structural change.

    Attributes:
        name: what is changed, such as `one pass to looped in softmax_kernel`.
        reason: why it may help, one sentence.
        plan: the plan after it.
        helps: the limits that it is meant for, see `propose.diagnose.LIMITS`.
        family: which kind of change it is, one of `FAMILIES`.
    """

    name: str
    reason: str
    plan: Plan
    helps: tuple[str, ...]
    family: str = ""


def moves(program: Program, plan: Plan, diagnosis: str, tried: Collection[str], prefer: str = "") -> list[Move]:
    """The moves from `plan`, those meant for the diagnosis first; plans with keys in `tried` are left out.

    Args:
        diagnosis: a limit such as `bandwidth`, or any text.
        tried: keys of plans, see `Plan.key`.
        prefer: one of `FAMILIES`, whose moves come before all others.
    """
    graph = lower(program)
    found: dict[Any, Move] = {}
    for family, make in _MAKERS.items():
        for move in make(graph, plan):
            same = _structure(move.plan)
            if same != _structure(plan) and move.plan.key() not in tried:
                found.setdefault(same, replace(move, family=family))
    return sorted(found.values(), key=lambda move: (move.family != prefer, diagnosis not in move.helps))


def _structure(plan: Plan) -> tuple[Any, ...]:
    """What tells plans apart to a tuner: everything but the order of a knob's values."""
    return tuple(
        replace(kernel, knobs=tuple((name, tuple(sorted(values))) for name, values in kernel.knobs))
        for kernel in plan.kernels
    )


def _chooser(graph: Graph, plan: Plan) -> Chooser:
    """A chooser that leaves rows with several programs where the plan has them."""
    chooser = Chooser(graph, plan.platform, plan.allow_tf32)
    split = {a for k in plan.kernels if k.scheme == "split" for a in k.anchors}
    whole = {a for k in plan.kernels if k.kind == "reduction" and k.scheme != "split" for a in k.anchors}
    chooser.also_few, chooser.not_few = frozenset(split), frozenset(whole)
    return chooser


def _leaders(plan: Plan) -> frozenset[str]:
    """The first reduction of each kernel: where the plan begins a kernel."""
    return frozenset(k.anchors[0] for k in plan.kernels if k.kind == "reduction")


def _regrouped(graph: Graph, chooser: Chooser, plan: Plan, apart: frozenset[str]) -> Plan | None:
    """A plan with other groups, in which kernels that stay the same keep their scheme and knobs."""
    try:
        made = plan_with(graph, chooser, apart)
    except TranslateError:
        return None
    kept = {_content(kernel): kernel for kernel in plan.kernels}
    if [_content(kernel) for kernel in made.kernels] == list(kept) and chooser.few_rows() == _split_anchors(plan):
        return None
    return replace(made, kernels=tuple(_kept(kernel, kept.get(_content(kernel))) for kernel in made.kernels))


def _split_anchors(plan: Plan) -> frozenset[str]:
    return frozenset(a for k in plan.kernels if k.scheme == "split" for a in k.anchors)


def _content(kernel: Kernel) -> tuple[Any, ...]:
    return kernel.kind, kernel.anchors, kernel.stores


def _kept(made: Kernel, old: Kernel | None) -> Kernel:
    if old is None or (old.scheme == "split") != (made.scheme == "split"):
        return made
    return replace(old, name=made.name)


# -- reductions


def _extents(graph: Graph, chooser: Chooser, kernel: Kernel) -> tuple[int, int, bool]:
    """(rows, how many elements each reduces, whether they are neighbours in memory) at full size."""
    domain = domain_of(graph, kernel.anchors[0])
    rows = chooser.value(product([domain.shape[a] for a in domain.kept]))
    length = chooser.value(product([domain.shape[a] for a in domain.reduced]))
    return rows, length, not domain.kept or domain.reduced[-1:] == (len(domain.shape) - 1,)


def _reduction_schemes(graph: Graph, plan: Plan) -> Iterator[Move]:
    """One pass, or looped over blocks: what is read again against what is held at once."""
    chooser = _chooser(graph, plan)
    for kernel in plan.kernels:
        if kernel.kind != "reduction" or kernel.scheme == "split":
            continue
        for scheme, helps, reason in _SCHEMES:
            if scheme == kernel.scheme:
                continue
            changed = _with_scheme(graph, chooser, kernel, scheme)
            if changed is not None:
                yield Move(f"{kernel.scheme} to {scheme} in {kernel.name}", reason, plan.with_kernel(changed), helps)


_SCHEMES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("one_pass", ("bandwidth", "latency"), "a row that stays in registers is read from memory once"),
    ("looped", ("spills", "occupancy", "compile-error", "shared-memory"), "smaller blocks hold fewer values at once"),
)


def _with_scheme(graph: Graph, chooser: Chooser, kernel: Kernel, scheme: str) -> Kernel | None:
    _, length, inner = _extents(graph, chooser, kernel)
    plain = replace(kernel, scheme=scheme, rows="program", warp_elements=0)
    if scheme == "one_pass":
        if length > (LONGEST_ROW if inner else LONGEST_COLUMN):
            return None
        knobs: tuple[Knob, ...] = (("num_warps", (16, 8, 32)),) if inner else (
            ("COLUMNS", (32, 16, 64)), ("num_warps", (8, 4)),
        )  # fmt: skip
        return replace(plain, knobs=knobs)
    knobs = (("BLOCK", (1024, 2048, 4096, 8192)), ("num_warps", (4, 8, 16)), ("num_stages", (2, 1, 3)))
    if not inner:
        knobs = (("COLUMNS", (128, 64, 32)), ("BLOCK", (16, 32, 8)), ("num_warps", (8, 4)), ("num_stages", (2, 1, 3)))
    return replace(plain, knobs=knobs)


def _programs_per_row(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Several programs per row, or one; what needs the finished row is in the next kernel, or the same."""
    for kernel in plan.kernels:
        if kernel.kind != "reduction" or any(graph.nodes[a].fn == "prod" for a in kernel.anchors):
            continue
        chooser = _chooser(graph, plan)
        rows, length, _ = _extents(graph, chooser, kernel)
        own = frozenset(kernel.anchors)
        if kernel.scheme != "split" and length >= SHORTEST_SPLIT:
            chooser.also_few, chooser.not_few = chooser.also_few | own, chooser.not_few - own
            name, helps = f"{kernel.scheme} to split in {kernel.name}", ("latency", "occupancy")
            reason = "more programs share a long row when there are few rows"
        elif kernel.scheme == "split" and 4 * rows >= chooser.units:
            chooser.also_few, chooser.not_few = chooser.also_few - own, chooser.not_few | own
            name, helps = f"split to one program per row in {kernel.name}", ("launch", "bandwidth")
            reason = "rows that fill the device need no partial results and no second kernel"
        else:
            continue
        changed = _regrouped(graph, chooser, plan, _leaders(plan))
        if changed is not None:
            yield Move(name, reason, changed, helps)


def _rows_per_program(graph: Graph, plan: Plan) -> Iterator[Move]:
    """One row per program, or several."""
    chooser = _chooser(graph, plan)
    for kernel in plan.kernels:
        if kernel.kind != "reduction" or kernel.scheme != "one_pass" or "COLUMNS" in dict(kernel.knobs):
            continue
        rows, length, inner = _extents(graph, chooser, kernel)
        if kernel.rows == "tile":
            changed = replace(kernel, rows="program", knobs=(("num_warps", (1, 2, 4)),))
            yield Move(f"one row per program in {kernel.name}", "rows do not wait for each other",
                       plan.with_kernel(changed), ("occupancy", "spills"))  # fmt: skip
        elif inner and rows > 1 and length <= 8192:
            changed = replace(kernel, rows="tile", knobs=(("ROWS", (2, 4)), ("num_warps", (8, 4, 16))))
            yield Move(f"several rows per program in {kernel.name}", "more loads are in flight in each program",
                       plan.with_kernel(changed), ("latency", "bandwidth", "launch"))  # fmt: skip


def _regions(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Fuse or split at a reduction: fewer bytes against simpler kernels."""
    chooser = _chooser(graph, plan)
    leaders = _leaders(plan)
    for anchor in [a for k in plan.kernels if k.kind == "reduction" for a in k.anchors[1:]]:
        apart = _regrouped(graph, chooser, plan, leaders | {anchor})
        if apart is not None:
            yield Move(f"a kernel of its own for {anchor}", "each kernel gets the blocks and warps that suit it",
                       apart, ("spills", "occupancy", "compile-error", "shared-memory"))  # fmt: skip
    for anchor in sorted(leaders):
        together = _regrouped(graph, chooser, plan, leaders - {anchor})
        if together is not None:
            yield Move(f"{anchor} in an earlier kernel", "results that stay on chip cost no memory traffic",
                       together, ("launch", "bandwidth"))  # fmt: skip


# -- elements per thread, and programs per unit


def _vectors(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Elements per thread: wide accesses in flight against registers."""
    chooser = _chooser(graph, plan)
    for kernel in plan.kernels:
        along_rows = kernel.kind == "reduction" and kernel.scheme == "looped"
        if along_rows and not _extents(graph, chooser, kernel)[2]:
            continue
        if not (along_rows or kernel.kind == "pointwise") or kernel.scheme == "tiled" or "num_warps" not in dict(
            kernel.knobs
        ) or not ("BLOCK" in dict(kernel.knobs) or kernel.warp_elements):  # fmt: skip
            continue
        for elements, helps, reason in _ELEMENTS:
            per_warp = LANES[chooser.vendor] * elements
            warps = kernel.knob("num_warps")
            if kernel.warp_elements == 0 and kernel.knob("BLOCK")[0] == per_warp * warps[0]:
                continue
            changed = replace(kernel.without_knobs("BLOCK"), warp_elements=per_warp)
            if per_warp != kernel.warp_elements:
                yield Move(f"{elements} elements per thread in {kernel.name}", reason, plan.with_kernel(changed), helps)


_ELEMENTS: tuple[tuple[int, tuple[str, ...], str], ...] = (
    (4, ("occupancy", "spills"), "few elements per thread need few registers"),
    (8, ("bandwidth", "latency"), "two wide loads per thread and tensor are in flight"),
    (16, ("bandwidth", "latency", "launch"), "four wide loads per thread and tensor are in flight, in fewer programs"),
)


def _persistent(graph: Graph, plan: Plan) -> Iterator[Move]:
    """One program per tile, or as many programs as the device runs at once, each with many tiles."""
    chooser = _chooser(graph, plan)
    for kernel in plan.kernels:
        if kernel.persistent:
            changed = replace(kernel.without_knobs("PER_UNIT", "STAGES"), persistent=False)
            yield Move(f"one program per tile in {kernel.name}", "a program that ends leaves its registers to another",
                       plan.with_kernel(changed), ("occupancy", "spills", "shared-memory"))  # fmt: skip
        elif kernel.kind == "pointwise" and kernel.order != "reversed" and graph.nodes[kernel.stores[0]].shape:
            total = chooser.value(product(Domain(graph.nodes[kernel.stores[0]].shape).shape))
            if total > 1024 * chooser.units:
                knobs = (*kernel.knobs, ("PER_UNIT", (16, 8, 32, 4)), ("STAGES", (2, 1, 3)))
                yield _to_persistent(plan, replace(kernel, knobs=knobs), "the next block is loaded while one is stored")
        elif kernel.kind == "contraction" and _product_tiles(chooser, kernel) > chooser.units:
            knobs = (*kernel.knobs, ("PER_UNIT", (1, 2, 4)))
            reason = "a program's setup is paid once, and no wave of programs ends with idle units between"
            yield _to_persistent(plan, replace(kernel, knobs=knobs), reason)


def _backwards(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Elements in the order of memory, or the last ones first."""
    reason = "what the kernel before read last is still in the L2 cache"
    for kernel in plan.kernels[1:]:
        flat = kernel.kind == "pointwise" and kernel.scheme == "flat" and graph.nodes[kernel.stores[0]].shape
        if flat and not kernel.persistent and kernel.order != "reversed":
            changed = plan.with_kernel(replace(kernel, order="reversed"))
            yield Move(f"last elements first in {kernel.name}", reason, changed, ("bandwidth",))


def _to_persistent(plan: Plan, kernel: Kernel, reason: str) -> Move:
    name = f"a persistent grid in {kernel.name}"
    return Move(name, reason, plan.with_kernel(replace(kernel, persistent=True)), ("launch", "latency", "bandwidth"))


# -- products


def _product_tiles(chooser: Chooser, kernel: Kernel) -> int:
    """How many tiles a persistent grid could walk; partial sums have a grid of their own."""
    return 0 if kernel.scheme == "parts" else prod(_tile_counts(chooser, kernel))


def _tile_counts(chooser: Chooser, kernel: Kernel) -> tuple[int, int, int]:
    batch, rows, columns, _ = chooser.product_sizes(kernel)
    return batch, -(-rows // kernel.knob("BLOCK_M")[0]), -(-columns // kernel.knob("BLOCK_N")[0])


def _precisions(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Another allowed scheme for products in full precision, and that one alone."""
    for kernel in plan.kernels:
        if kernel.kind != "contraction" or "PRECISION" not in dict(kernel.knobs):
            continue
        for scheme in precisions(plan.platform, plan.allow_tf32):
            if scheme != kernel.knob("PRECISION")[0]:
                changed = kernel.with_knob("PRECISION", (scheme,))
                yield Move(f"products by {scheme} in {kernel.name}", _PRECISION_REASONS[scheme],
                           plan.with_kernel(changed), ("compute", "wrong-values", "spills"))  # fmt: skip


_PRECISION_REASONS = {
    "tf32": "one pass over tf32 operands is the fastest that the problem allows",
    "bf16x3": "three passes in bf16 err less than one in tf32, which not every matrix unit has",
    "bf16x6": "six passes in bf16 keep fp32's range, on matrix units that are many times as fast",
    "tf32x3": "three passes in tf32 need fewer conversions than six in bf16",
    "ieee": "plain fp32 needs no conversions; AMD's matrix units have it, NVIDIA's do not",
}


def _product_schemes(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Operands of a full-precision product split once before it, or in its loop; sums whole, or in parts."""
    chooser = _chooser(graph, plan)
    reasons: dict[str, tuple[str, tuple[str, ...]]] = {
        "planes": ("operands split once cost the inner loop no registers", ("compute", "spills")),
        "tiles": ("without scratch in memory there are fewer bytes and launches", ("bandwidth", "launch", "latency")),
        "parts": ("parts of long sums fill the units that few tiles leave idle", ("latency", "occupancy")),
    }
    for kernel in plan.kernels:
        for scheme in chooser.product_schemes(kernel) if kernel.kind == "contraction" else ():
            if scheme != kernel.scheme:
                reason, helps = reasons[scheme]
                changed = plan.with_kernel(chooser.product(kernel, scheme))
                yield Move(f"{kernel.scheme} to {scheme} in {kernel.name}", reason, changed, helps)


def _tiles(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Other tiles of a product, and only those: reuse against registers and pipeline depth."""
    chooser = _chooser(graph, plan)
    for kernel in plan.kernels:
        if kernel.kind != "contraction":
            continue
        _, *extents = chooser.product_sizes(kernel)
        for tile, warps, helps, reason in _TILES:
            fits = all(size <= max(16, 2 * extent) for size, extent in zip(tile, extents, strict=True))
            stages = chooser.depths(kernel, tile)
            # Two sums of 128 x 256 do not fit into the registers of eight warps.
            if not fits or not stages or (kernel.scheme == "planes" and tile[0] * tile[1] > 128 * 128):
                continue
            changed = kernel.with_knob("num_warps", warps).with_knob("num_stages", stages)
            for name, size in zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), tile, strict=True):
                changed = changed.with_knob(name, (size,))
            if any(changed.knob(n)[0] != kernel.knob(n)[0] for n in ("BLOCK_M", "BLOCK_N", "BLOCK_K")):
                name = f"tiles of {' x '.join(map(str, tile))} in {kernel.name}"
                yield Move(name, reason, plan.with_kernel(changed), helps)


_TILES: tuple[tuple[tuple[int, int, int], tuple[int, ...], tuple[str, ...], str], ...] = (
    ((128, 256, 32), (8,), ("compute", "bandwidth"), "larger tiles read their operands less often"),
    ((64, 128, 32), (4, 8), ("spills", "occupancy", "shared-memory"), "smaller tiles hold fewer sums at once"),
    ((128, 128, 64), (8,), ("latency", "compute"), "longer steps hide more latency"),
    ((64, 64, 64), (4, 8), ("occupancy", "latency"), "more programs fill the device"),
)


def _tile_order(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Which tiles run at the same time, and so which operands they find in the L2 cache."""
    chooser = _chooser(graph, plan)
    for kernel in plan.kernels:
        if kernel.kind != "contraction" or min(_tile_counts(chooser, kernel)[1:]) < 2:
            continue
        for order, knobs, reason in _ORDERS:
            if order != kernel.order:
                changed = kernel.without_knobs("GROUP")
                changed = replace(changed, order=order, knobs=(*changed.knobs, *knobs))
                yield Move(f"tiles in {order} in {kernel.name}", reason, plan.with_kernel(changed), ("bandwidth",))


_ORDERS: tuple[tuple[str, tuple[Knob, ...], str], ...] = (
    ("rows", (), "neighbouring programs share the left operand's tile while the right operand streams by"),
    ("columns", (), "neighbouring programs share the right operand's tile while the left operand streams by"),
    ("grouped", (("GROUP", (8, 4, 16)),), "a square of tiles reads the fewest operands from memory"),
)

_MAKERS: dict[str, Callable[[Graph, Plan], Iterator[Move]]] = {
    "scheme": _reduction_schemes, "split": _programs_per_row, "rows": _rows_per_program, "fusion": _regions,
    "product": _product_schemes, "precision": _precisions, "tile": _tiles, "vector": _vectors,
    "persistent": _persistent, "tile-order": _tile_order, "backwards": _backwards,
}  # fmt: skip
#: The kinds of change that there are, in the order in which equals are offered.
FAMILIES = tuple(_MAKERS)
