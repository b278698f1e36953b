"""What a candidate's launches move and compute, from its text and its LaunchPlan.

In: the source, the plan at full size, the knob choice, the FLOPs of the reference's products. Out: `Work` per fill and
launch. Left to others: the time (`platforms.cost`).

How bytes are counted: every place in a kernel where a pointer argument is loaded walks over its buffer once, so a
second pass over a row is a second read; a matrix kernel's tiles are read again from the cache, so its operands count
once. How FLOPs are counted: the reference's products are dealt out, in order, to the kernels that contain `tl.dot`, in
the arithmetic that the dot asks for; the rest is too little to matter beside the bytes and is left out. It is an
estimate for ranking: a kernel whose loads are masked off reads less than counted here.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernelevolve.candidate import Choice
from kernelevolve.evaluation import Buffer, Launch, LaunchPlan
from kernelevolve.platforms.cost import Work, copies
from kernelevolve.syntax import parse

_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}
_PRODUCTS = {"ieee": "fp32", "tf32": "tf32", "tf32x3": "tf32x3", "bf16x3": "bf16x3", "bf16x6": "bf16x6"}
_NARROW = {"float16": "fp16", "bfloat16": "bf16", "float64": "fp64", "int8": "int8"}


@dataclass(frozen=True)
class Sites:
    """What one kernel's text does.

    Attributes:
        loads: how often each argument is loaded from.
        stores: arguments that are stored to or updated atomically.
        dots: the `input_precision` of each `tl.dot` in the loop that has most of them: a literal, or a constexpr
            argument's name. Several in one loop mean that a product is made of that many passes.
        walked: of a kernel in which each program walks several tiles (a loop with `tl.num_programs`), the constants
            that make up the size of one; empty for others.
    """

    loads: Mapping[str, int]
    stores: frozenset[str]
    dots: tuple[str, ...]
    walked: tuple[str, ...] = ()


def read_sites(source: str) -> dict[str, Sites]:
    """The sites of every function in the file, by name."""
    return {n.name: _sites(n) for n in ast.walk(parse(source)) if isinstance(n, ast.FunctionDef)}


def _sites(function: ast.FunctionDef) -> Sites:
    arguments = {a.arg for a in function.args.args}
    roots = _pointers(function, arguments)
    loads: dict[str, int] = {}
    stores: set[str] = set()
    for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        # `tl.load(pointer)` or `descriptor.load([..])`
        places: list[ast.AST] = [*call.args[:1]]
        if isinstance(call.func, ast.Attribute) and not _is_tl(call.func.value):
            places = [call.func.value]
        touched = {
            r for place in places for n in ast.walk(place) if isinstance(n, ast.Name) for r in roots.get(n.id, ())
        }
        if name in ("load", "gather", "load_tensor_descriptor"):
            for argument in touched:
                loads[argument] = loads.get(argument, 0) + 1
        elif name in ("store", "scatter", "store_tensor_descriptor") or name.startswith("atomic_"):
            stores |= touched
    dots = _dots(function)
    return Sites(loads, frozenset(stores), dots, _walked(function, "zeros" if dots else "arange"))


def _walked(function: ast.FunctionDef, maker: str) -> tuple[str, ...]:
    """The constants in the shape of a tile, by the call that makes one: a product's sums, or a block's positions."""
    loops = [n for n in ast.walk(function) if isinstance(n, ast.For)]
    if not any(_calls(node, "num_programs") for node in loops):
        return ()
    extents = [a for call in _calls(function, maker) for a in call.args[: 1 if maker == "zeros" else 2]]
    return tuple(dict.fromkeys(n.id for extent in extents for n in ast.walk(extent) if isinstance(n, ast.Name)))


def _calls(node: ast.AST, name: str) -> list[ast.Call]:
    calls = (n for n in ast.walk(node) if isinstance(n, ast.Call))
    return [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == name]


def _dots(function: ast.FunctionDef) -> tuple[str, ...]:
    def inside(node: ast.AST) -> tuple[str, ...]:
        calls = (n for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
        return tuple(_precision(c) for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "dot")

    loops = [n for n in ast.walk(function) if isinstance(n, (ast.For, ast.While))]
    innermost = [n for n in loops if not any(isinstance(m, (ast.For, ast.While)) for m in ast.walk(n) if m is not n)]
    return max((inside(node) for node in innermost), key=len, default=()) or inside(function)


def _is_tl(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("tl", "language")


def _pointers(function: ast.FunctionDef, arguments: set[str]) -> dict[str, set[str]]:
    """For each name the arguments that it was computed from by plain assignments, pointers among them."""
    roots: dict[str, set[str]] = {a: {a} for a in arguments}
    for _ in range(2):  # twice, because loops carry names backwards
        for node in ast.walk(function):
            value = getattr(node, "value", None)
            if not isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) or value is None or _loads(value):
                continue
            found = {r for n in ast.walk(value) if isinstance(n, ast.Name) for r in roots.get(n.id, ())}
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (n for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)):
                roots.setdefault(target.id, set()).update(found)
    return roots


def _loads(value: ast.AST) -> bool:
    names = [n.attr for n in ast.walk(value) if isinstance(n, ast.Attribute)]
    return "load" in names


def _precision(call: ast.Call) -> str:
    for keyword in call.keywords:
        if keyword.arg == "input_precision":
            value = keyword.value
            return value.id if isinstance(value, ast.Name) else str(getattr(value, "value", "tf32"))
    return "tf32"


def works(source: str, plan: LaunchPlan, choice: Mapping[str, Choice], products: Sequence[float]) -> tuple[Work, ...]:
    """The work of every fill, copy and launch of `plan`, in order.

    Args:
        choice: of the knobs, for a precision that is one.
        products: FLOPs of the reference's matrix products and convolutions, in order.
    """
    sites = read_sites(source)
    buffers = {b.name: b for b in plan.buffers}
    made = [Work(f"fill {f.buffer}", 0.0, _size(buffers[f.buffer]), compiled=False) for f in plan.fills]
    made += copies(plan)
    left = list(products)
    dotted = [launch for launch in plan.launches if _of(sites, launch).dots]
    touched = {name for copy in plan.copies for name in (copy.target, copy.source)}
    for launch in plan.launches:
        flops = 0.0
        if launch in dotted and left:
            # Where one kernel does several products, it takes what the later kernels leave.
            rest = len(dotted) - dotted.index(launch) - 1
            take = max(1, len(left) - rest) if not rest else 1
            flops = sum(left.pop(0) for _ in range(min(take, len(left))))
        made.append(_work(launch, _of(sites, launch), buffers, touched, flops, choice))
        touched |= {_buffer(v) for v in launch.arguments.values()}
    return tuple(made)


def _of(sites: Mapping[str, Sites], launch: Launch) -> Sites:
    return sites.get(launch.kernel, Sites({}, frozenset(), ()))


def _work(
    launch: Launch,
    sites: Sites,
    buffers: Mapping[str, Buffer],
    touched: set[str],
    flops: float,
    choice: Mapping[str, Choice],
) -> Work:
    read = reused = wrote = 0.0
    for argument, value in launch.arguments.items():
        buffer = buffers.get(_buffer(value))
        if buffer is None:
            continue
        passes = min(1, sites.loads.get(argument, 0)) if sites.dots else sites.loads.get(argument, 0)
        read += passes * _size(buffer)
        reused += passes * _size(buffer) if buffer.name in touched else 0.0
        wrote += _size(buffer) if argument in sites.stores else 0.0
    arithmetic = _flops(launch, sites, buffers, choice, flops) if flops else {}
    tiles = _tiles(launch, sites, buffers)
    programs = math.prod(launch.grid) or None
    return Work(launch.kernel, read, wrote, arithmetic, programs, "generated", reused, tiles=tiles)


def _tiles(launch: Launch, sites: Sites, buffers: Mapping[str, Buffer]) -> int | None:
    """How many tiles the programs of a persistent grid share; None where it is not, or where they have no size."""
    sizes = [launch.constants.get(name) for name in sites.walked]
    stored = [b for a in sites.stores if (b := _buffer(launch.arguments.get(a))) in buffers]
    if not sizes or not stored or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    largest = max(math.prod(buffers[b].shape) for b in stored)
    return max(1, -(-largest // math.prod(int(str(size)) for size in sizes)))


def _flops(
    launch: Launch, sites: Sites, buffers: Mapping[str, Buffer], choice: Mapping[str, Choice], flops: float
) -> dict[str, float]:
    """FLOPs by arithmetic: operands that are narrow in memory are multiplied as such, once per dot of the loop."""
    loaded = [buffers[b] for a in sites.loads if (b := _buffer(launch.arguments.get(a))) in buffers]
    widest = max(loaded, key=_size, default=None)
    if widest is not None and widest.dtype in _NARROW:
        return {_NARROW[widest.dtype]: flops * len(sites.dots)}
    asked = sites.dots[0] if sites.dots else "ieee"
    literal: Any = launch.constants.get(asked, choice.get(asked, asked))
    return {_PRODUCTS.get(str(literal), "fp32"): flops}


def _size(buffer: Buffer) -> float:
    return float(math.prod(buffer.shape) * _BYTES.get(buffer.dtype, 1))


def _buffer(argument: Any) -> str:
    text = argument if isinstance(argument, str) else ""
    return text.removeprefix("buffer ").rsplit("+", 1)[0] if text.startswith("buffer ") else ""
