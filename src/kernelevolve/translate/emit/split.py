"""Reductions of few, long rows: several programs per row, then a second kernel that combines their partial results.

Partial results lie as (parts, rows) in memory. The second kernel also computes what follows from the results.
"""

from __future__ import annotations

from kernelevolve.translate.coordinates import flatten, unflatten
from kernelevolve.translate.emit.body import Var, computed
from kernelevolve.translate.emit.reducers import Reducer, partials
from kernelevolve.translate.emit.source import KernelSource, Launch, finish
from kernelevolve.translate.emit.walk import (
    Walk,
    close_loop,
    factor,
    keep_results,
    kept_axes,
    open_loop,
    position,
    reducer,
    spread,
    store_all,
)
from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.expr import Expr, product, text


def write_split(walk: Walk) -> list[KernelSource]:
    """Writes both kernels."""
    return [_parts(walk), _combine(walk)]


def _names(walk: Walk) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each anchor the host names and dtypes of its partial results."""
    found = []
    for anchor in walk.kernel.anchors:
        node = walk.graph.nodes[anchor]
        dtype = computed(walk.graph.nodes[node.args[0]].dtype)
        parts = [
            (f"{anchor}_{part}" if part != "partial" else f"{anchor}_partial", kind)
            for part, kind in partials(node.fn, dtype)
        ]
        found.append((anchor, [(f"{name}s" if not name.endswith("s") else name, kind) for name, kind in parts]))
    return found


def _kept_count(walk: Walk) -> Expr:
    return product([walk.extent(run) for run in walk.kept])


def _parts(walk: Walk) -> KernelSource:
    w = walk.w
    # Rows one after the other: the last programs read the end of memory, which the next kernel may find in the cache.
    in_rows = walk.inner and bool(walk.kept)
    grid, constants, derived = kept_axes(walk, *(["(tl.program_id(0) // PARTS)"] if in_rows else []))
    part = "(tl.program_id(0) % PARTS)" if in_rows else f"tl.program_id({len(grid) if walk.kept else 0})"
    grid = [f"{factor(_kept_count(walk))} * {{PARTS}}"] if in_rows else [*(grid if walk.kept else ()), "{PARTS}"]
    w.axis("part", _kept_count(walk), tile=False)
    w.line(f"part = {part}" + (".to(tl.int64)" if walk.kernel.wide else ""))
    last = walk.extent(walk.reduced[-1])
    blocks = f"tl.cdiv({w.size(last)}, BLOCK)"
    if walk.reduced[:-1]:
        blocks = f"{w.size(product([walk.extent(r) for r in walk.reduced[:-1]]))} * {blocks}"
    for name in ("steps", "per_part", "begin", "end"):
        w.reserve(name)
    w.line(f"steps = {blocks}")
    w.line("per_part = tl.cdiv(steps, PARTS)")
    w.line("begin = part * per_part")
    w.line("end = tl.minimum(begin + per_part, steps)")
    writing = [(anchor, reducer(walk, anchor)) for anchor in walk.kernel.anchors]
    lanes = {anchor: r.start() for anchor, r in writing}
    with open_loop(walk, "begin", "end") as mask:
        for anchor, r in writing:
            value = w.read(walk.graph.nodes[anchor].args[0], walk.at(walk.domain.coordinates()))
            r.update(lanes[anchor], value, mask, w.index(position(walk)))
    close_loop(walk)
    count = _kept_count(walk)
    place = flatten([walk.values[f"d{a}"] for run in walk.kept for a in run],
                    [walk.domain.shape[a] for run in walk.kept for a in run])  # fmt: skip
    extra: list[tuple[str, str]] = []
    before: list[str] = []
    offset = f"part * {w.size(count)}" + (f" + {w.index(place)}" if walk.kept else "")
    store_mask = w.mask_of(w.axes_of(place))
    where = f", mask={store_mask}" if store_mask else ""
    for (anchor, r), (_, names) in zip(writing, _names(walk), strict=True):
        for result, (name, dtype) in zip(_safe(r.finish(lanes[anchor]), r), names, strict=True):
            w.line(f"tl.store({name}_ptr + {offset}, {result}{where})")
            extra.append((f"{name}_ptr", name))
            before.append(f"{name} = torch.empty(({{PARTS}}, {text(count)}), dtype=torch.{dtype}, device=device)")
    about = walk.kernel.about + "\n\nPartial results: program `part` of each row takes its share of the blocks."
    launch = Launch(tuple(grid), (*constants, "BLOCK", "PARTS"), tuple(derived), tuple(before), tuple(extra))
    return finish(w, walk.kernel, launch, about=about)


def _safe(results: list[Var], r: Reducer) -> list[str]:
    """A part without elements would divide by its count of 0."""
    if r.fn != "welford":
        return [v.text for v in results]
    mean, squares, count = (v.text for v in results)
    return [f"tl.where({count} > 0, {mean}, 0.0)", f"tl.where({count} > 0, {squares}, 0.0)", count]


def _combine(walk: Walk) -> KernelSource:
    graph, kernel = walk.graph, walk.kernel
    name = kernel.name.removesuffix("_kernel") + "_combine_kernel"
    w = Writer(graph, walk.w.stored, name)
    w.wide = kernel.wide
    zero = {f"d{a}": flatten([], []) for a in range(len(walk.domain.shape))}
    second = Walk(graph, kernel, w, walk.domain, walk.kept, walk.reduced, True, True, zero)
    count = _kept_count(walk)
    w.tile = (("part", "PARTS"),)
    grid = "1"
    offset = f"part * {w.size(count)}"
    if walk.kept:
        row = w.axis("row", count, tile=False)
        w.line("row = tl.program_id(0)" + (".to(tl.int64)" if kernel.wide else ""))
        second.values |= spread(second, walk.kept, unflatten(row, [walk.extent(run) for run in walk.kept], w.extents))
        grid, offset = text(count), f"{offset} + row"
    w.axis("part", count, tile=True)
    w.line("part = tl.arange(0, PARTS)")
    extra: list[tuple[str, str]] = []
    for anchor, names in _names(walk):
        r = reducer(second, anchor)
        r = Reducer(w, r.fn, r.dtype, r.name, 0, r.kept - {"part"})
        loaded = []
        for part, _ in names:
            value = w.fresh(part)
            w.line(f"{value} = tl.load({part}_ptr + {offset})")
            loaded.append(value)
            extra.append((f"{part}_ptr", part))
        keep_results(second, anchor, r.combine(loaded))
    store_all(second, full=False)
    about = f"Combines the partial results of `{kernel.name}` and computes what follows from them."
    return finish(w, kernel, Launch((grid,), ("PARTS",), (), (), tuple(extra)), name=name, about=about)
