"""Moves: other plans for the same program, one structural change away, in the order that a diagnosis suggests.

In: a program, a plan, what limits its kernel, the keys of plans that were tried. Out: `Move` values. Left to others:
writing the plan (`render`), numbers inside a plan (they are knobs, and the tuner's), whether a move was worth it (only
measuring tells).

Every move is an honest alternative and none is a win by construction. A move that the plan cannot take is not offered;
a move whose kernel turns out wrong or slow is rejected by the ladder and stays in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.emit.layout import domain_of
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import product
from kernelevolve.translate.first import Chooser, plan_groups, plan_with
from kernelevolve.translate.ir import Program
from kernelevolve.translate.lower import lower
from kernelevolve.translate.plan import Kernel, Knob, Plan


@dataclass(frozen=True)
class Move:
    """One structural change.

    Attributes:
        name: what is changed, such as `one pass to looped in softmax_kernel`.
        reason: why it may help, one sentence.
        plan: the plan after it.
        helps: the limits that it is meant for, see `propose.diagnose.LIMITS`.
    """

    name: str
    reason: str
    plan: Plan
    helps: tuple[str, ...]


def moves(program: Program, plan: Plan, diagnosis: str, tried: Collection[str]) -> list[Move]:
    """The moves from `plan`, those meant for the diagnosis first; plans with keys in `tried` are left out.

    Args:
        diagnosis: a limit such as `bandwidth`, or any text.
        tried: keys of plans, see `Plan.key`.
    """
    graph = lower(program)
    found: dict[str, Move] = {}
    for make in _MAKERS:
        for move in make(graph, plan):
            key = move.plan.key()
            if key != plan.key() and key not in tried:
                found.setdefault(key, move)
    return sorted(found.values(), key=lambda move: diagnosis not in move.helps)


def _reduction_schemes(graph: Graph, plan: Plan) -> Iterator[Move]:
    """One pass, looped over blocks, or split over programs: what is read again against what is held at once."""
    chooser = Chooser(graph, plan.platform, plan.allow_tf32)
    for kernel in plan.kernels:
        if kernel.kind != "reduction":
            continue
        for scheme, helps, reason in _SCHEMES:
            if scheme == kernel.scheme:
                continue
            changed = _with_scheme(graph, chooser, kernel, scheme)
            if changed is not None:
                yield Move(f"{kernel.scheme} to {scheme} in {kernel.name}", reason, plan.with_kernel(changed), helps)


_SCHEMES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("one_pass", ("bandwidth",), "a row that stays in registers is read from memory once"),
    ("looped", ("spills", "occupancy", "compile-error", "shared-memory"), "smaller blocks hold fewer values at once"),
)


def _with_scheme(graph: Graph, chooser: Chooser, kernel: Kernel, scheme: str) -> Kernel | None:
    domain = domain_of(graph, kernel.anchors[0])
    length = chooser.value(product([domain.shape[a] for a in domain.reduced]))
    inner = not domain.kept or domain.reduced[-1:] == (len(domain.shape) - 1,)
    if kernel.scheme == "split" or scheme == "split":
        return None
    if scheme == "one_pass":
        if length > (65536 if inner else 1024):
            return None
        knobs: tuple[Knob, ...] = (("num_warps", (16, 8, 32)),) if inner else (
            ("COLUMNS", (32, 16, 64)), ("num_warps", (8, 4)),
        )  # fmt: skip
        return replace(kernel, scheme="one_pass", rows="program", knobs=knobs)
    knobs = (("BLOCK", (2048, 1024, 4096, 8192)), ("num_warps", (8, 4, 16)), ("num_stages", (2, 1, 3)))
    if not inner:
        knobs = (("COLUMNS", (128, 64, 32)), ("BLOCK", (16, 32, 8)), ("num_warps", (4, 8)), ("num_stages", (2, 1, 3)))
    return replace(kernel, scheme="looped", rows="program", knobs=knobs)


def _split_rows(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Several programs per row; what needs the finished row moves into the next kernel."""
    for kernel in plan.kernels:
        if kernel.kind != "reduction" or kernel.scheme == "split":
            continue
        if any(graph.nodes[a].fn == "prod" for a in kernel.anchors):
            continue
        chooser = Chooser(graph, plan.platform, plan.allow_tf32)
        domain = domain_of(graph, kernel.anchors[0])
        if chooser.value(product([domain.shape[a] for a in domain.reduced])) < 4096:
            continue
        chooser.also_few = frozenset(kernel.anchors)
        try:
            apart = plan_with(graph, chooser)
        except TranslateError:
            continue
        reason = "more programs share a long row when there are few rows"
        yield Move(f"{kernel.scheme} to split in {kernel.name}", reason, apart, ("latency", "occupancy"))


def _rows_per_program(graph: Graph, plan: Plan) -> Iterator[Move]:
    """One row per program, or several."""
    chooser = Chooser(graph, plan.platform, plan.allow_tf32)
    for kernel in plan.kernels:
        if kernel.kind != "reduction" or kernel.scheme != "one_pass" or "COLUMNS" in dict(kernel.knobs):
            continue
        domain = domain_of(graph, kernel.anchors[0])
        length = chooser.value(product([domain.shape[a] for a in domain.reduced]))
        if kernel.rows == "tile":
            changed = replace(kernel, rows="program", knobs=(("num_warps", (1, 2, 4)),))
            yield Move(f"one row per program in {kernel.name}", "rows do not wait for each other",
                       plan.with_kernel(changed), ("occupancy", "spills"))  # fmt: skip
        elif length <= 8192:
            changed = replace(kernel, rows="tile", knobs=(("ROWS", (2, 4, 1)), ("num_warps", (8, 4, 16))))
            yield Move(f"several rows per program in {kernel.name}", "more loads are in flight in each program",
                       plan.with_kernel(changed), ("latency", "bandwidth"))  # fmt: skip


def _pointwise_shape(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Elements per program and their layout."""
    for kernel in plan.kernels:
        knobs = dict(kernel.knobs)
        if kernel.kind != "pointwise" or "BLOCK" not in knobs:
            continue
        for blocks, helps, reason in (
            ((4096, 8192, 2048), ("bandwidth", "latency"), "more elements per thread keep more loads in flight"),
            ((256, 512, 128), ("occupancy", "spills", "launch"), "fewer elements per thread need fewer registers"),
        ):
            changed = kernel.with_knob("BLOCK", blocks)
            yield Move(f"blocks of {blocks[0]} in {kernel.name}", reason, plan.with_kernel(changed), helps)


def _regions(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Fuse or split at a reduction: fewer bytes against simpler kernels."""
    anchors = [a for k in plan.kernels if k.kind == "reduction" for a in k.anchors]
    joined = {a for k in plan.kernels if len(k.anchors) > 1 for a in k.anchors[1:]}
    for anchor in anchors:
        if anchor not in joined:
            continue
        try:
            apart = plan_groups(graph, None, plan.platform, plan.allow_tf32, frozenset({anchor}))
        except TranslateError:
            continue
        yield Move(f"a kernel of its own for {anchor}", "each kernel gets the blocks and warps that suit it",
                   apart, ("spills", "occupancy", "compile-error", "shared-memory"))  # fmt: skip
    try:
        together = plan_groups(graph, None, plan.platform, plan.allow_tf32)
    except TranslateError:
        return
    yield Move("fuse everything that can be fused", "results that stay on chip cost no memory traffic",
               together, ("launch", "bandwidth"))  # fmt: skip


def _precisions(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Another allowed scheme for products in full precision."""
    for kernel in plan.kernels:
        knobs = dict(kernel.knobs)
        schemes = knobs.get("PRECISION", ())
        for scheme in schemes[1:] if kernel.kind == "contraction" else ():
            others = (scheme, *(s for s in schemes if s != scheme))
            changed = kernel.with_knob("PRECISION", others)
            yield Move(f"products by {scheme} in {kernel.name}", "another scheme trades matrix passes for registers",
                       plan.with_kernel(changed), ("compute", "wrong-values", "spills"))  # fmt: skip


def _product_schemes(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Operands of a full-precision product split once before it, or in its loop."""
    chooser = Chooser(graph, plan.platform, plan.allow_tf32)
    reasons = {
        "planes": ("operands split once cost the inner loop no registers", ("compute", "spills")),
        "tiles": ("without planes in memory there are fewer bytes and launches", ("bandwidth", "launch", "latency")),
    }
    for kernel in plan.kernels:
        for scheme in chooser.product_schemes(kernel) if kernel.kind == "contraction" else ():
            if scheme != kernel.scheme:
                reason, helps = reasons[scheme]
                changed = plan.with_kernel(chooser.product(kernel, scheme))
                yield Move(f"{kernel.scheme} to {scheme} in {kernel.name}", reason, changed, helps)


def _tiles(graph: Graph, plan: Plan) -> Iterator[Move]:
    """Other tiles of a product: reuse against registers and pipeline depth."""
    shapes: tuple[tuple[tuple[int, int, int], tuple[str, ...], str], ...] = (
        ((128, 256, 32), ("compute", "bandwidth"), "larger tiles read their operands less often"),
        ((64, 128, 32), ("spills", "occupancy", "shared-memory"), "smaller tiles hold fewer sums at once"),
        ((128, 128, 64), ("latency", "compute"), "longer steps hide more latency"),
        ((64, 64, 64), ("occupancy", "latency"), "more programs fill the device"),
    )
    for kernel in plan.kernels:
        if kernel.kind != "contraction" or kernel.scheme != "tiles":
            continue
        for (m, n, k), helps, reason in shapes:
            changed = kernel.with_knob("BLOCK_M", _first(kernel, "BLOCK_M", m))
            changed = changed.with_knob("BLOCK_N", _first(kernel, "BLOCK_N", n))
            changed = changed.with_knob("BLOCK_K", _first(kernel, "BLOCK_K", k))
            yield Move(f"tiles of {m} x {n} x {k} in {kernel.name}", reason, plan.with_kernel(changed), helps)


def _first(kernel: Kernel, knob: str, value: Any) -> tuple[Any, ...]:
    return (value, *(v for v in kernel.knob(knob) if v != value))


_MAKERS: tuple[Callable[[Graph, Plan], Iterator[Move]], ...] = (
    _reduction_schemes, _split_rows, _rows_per_program, _regions, _product_schemes, _precisions, _tiles,
    _pointwise_shape,
)  # fmt: skip
