"""Which coordinates a kernel walks: its domain, and which neighbouring dimensions can be walked as one.

In: the nodes that a kernel computes and stores. Out: `Domain`, its accesses, and groups of dimensions that every access
sees as one contiguous run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernelevolve.translate.algebra import Graph, reshape_index
from kernelevolve.translate.coordinates import substitute
from kernelevolve.translate.emit.reader import Access, NotHere, Trace, address
from kernelevolve.translate.expr import ONE, ZERO, Expr, product, symbol


@dataclass(frozen=True)
class Domain:
    """An iteration space: dimensions, and which of them a reduction runs over."""

    shape: tuple[Expr, ...]
    reduced: tuple[int, ...] = ()

    @property
    def kept(self) -> tuple[int, ...]:
        """The dimensions that stay."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.reduced)

    def coordinates(self) -> list[Expr]:
        """``d0, d1, ...``, and 0 along dimensions of size 1."""
        return [ZERO if size == ONE else symbol(f"d{axis}") for axis, size in enumerate(self.shape)]

    def extents(self) -> dict[str, Expr]:
        """The extents of ``d0, d1, ...``"""
        return {f"d{axis}": size for axis, size in enumerate(self.shape)}

    def kept_coordinates(self) -> tuple[Expr, ...]:
        """The coordinates of a reduction's result."""
        return tuple(self.coordinates()[axis] for axis in self.kept)


def domain_of(graph: Graph, anchor: str) -> Domain:
    """The domain of a reduction or scan."""
    node = graph.nodes[anchor]
    source = graph.nodes[node.args[0]]
    return Domain(source.shape, node.dims)


def base(graph: Graph, name: str) -> str:
    """The reduction that an item belongs to, or the node itself."""
    node = graph.nodes[name]
    return node.args[0] if node.kind == "item" else name


def results_of(graph: Graph, anchor: str) -> list[str]:
    """The nodes that hold an anchor's results."""
    items = [n.name for n in graph.nodes.values() if n.kind == "item" and n.args[0] == anchor]
    return items or [anchor]


def store_coordinates(graph: Graph, domain: Domain, name: str) -> tuple[list[Expr], bool] | None:
    """(coordinates of a stored node in terms of the domain, whether it spans the reduced dimensions too).

    None where its elements are neither those of the whole domain nor of the kept part.
    """
    node = graph.nodes[name]
    known = domain.extents()
    for axes, full in ((domain.kept, False), (tuple(range(len(domain.shape))), True)):
        if full and not domain.reduced:
            continue
        shape = [domain.shape[axis] for axis in axes]
        if node.numel() == product(shape):
            index = reshape_index(list(node.shape), shape)
            values = {f"i{k}": domain.coordinates()[axis] for k, axis in enumerate(axes)}
            return [substitute(expr, values, known) for expr in index], full
    return None


def trace(
    graph: Graph, stored: frozenset[str], domain: Domain, anchors: Sequence[str], stores: Iterable[str]
) -> Trace | None:
    """The accesses of a kernel that computes anchors and stores nodes, or None where it cannot."""
    found = Trace(graph, stored, domain.extents())
    kept = domain.kept_coordinates()
    names = frozenset(str(c) for c in kept)
    try:
        for anchor in anchors:
            found.read(graph.nodes[anchor].args[0], domain.coordinates())
            for result in results_of(graph, anchor):
                found.results[result] = (kept, names)
        for name in stores:
            where = store_coordinates(graph, domain, name)
            if where is None:
                return None
            found.read(name, where[0])
            found.accesses.append(Access(name, address(graph, name, where[0])))
    except NotHere:
        return None
    return found


def groups(domain: Domain, found: Trace) -> list[list[int]]:
    """Neighbouring dimensions of one role that every access sees as one run, dimensions of size 1 left out."""
    axes = [axis for axis, size in enumerate(domain.shape) if size != ONE]
    result: list[list[int]] = []
    for axis in axes:
        if result:
            last = result[-1][-1]
            same_role = (axis in domain.reduced) == (last in domain.reduced)
            if same_role and _one_run(last, axis, domain.shape[axis], found):
                result[-1].append(axis)
                continue
        result.append([axis])
    return result


def _one_run(outer: int, inner: int, extent: Expr, found: Trace) -> bool:
    """True where every access steps over the outer dimension exactly as over ``extent`` inner positions."""
    a, b = f"d{outer}", f"d{inner}"
    if any({a, b} & expr.names() for expr in found.others):
        return False
    for access in found.accesses:
        over, along = _step(access.offset, a), _step(access.offset, b)
        if over is None or along is None or over != along * extent:
            return False
    return True


def _step(offset: Expr, name: str) -> Expr | None:
    """The coefficient of a coordinate, None where it occurs in anything but a plain product."""
    total = ZERO
    for monomial, coefficient in offset.terms:
        inside = [atom for atom in monomial if name in Expr((((atom,), 1),)).names()]
        if not inside:
            continue
        if inside != [name]:
            return None
        rest = tuple(atom for atom in monomial if atom != name)
        total = total + Expr(((rest, coefficient),))
    return total


def crossing(found: Trace, run: Sequence[int], last: Sequence[int]) -> int:
    """How many accesses run along neighbouring elements of ``run`` while they step over ``last``."""
    here, there = f"d{run[-1]}", f"d{last[-1]}"
    return sum(
        _step(access.offset, here) == ONE and _step(access.offset, there) not in (ZERO, ONE)
        for access in found.accesses
    )
