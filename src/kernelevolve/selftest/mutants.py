"""Mutants: honest kernels with one mistake each, made mechanically from their text.

In: a candidate's text. Out: `Mutant` values. Left to others: judging them (`tests`, `benchmarks/mutation_score.py`).

The operators are mistakes that kernels are really written with: a mask dropped, a bound off by one, sums kept in a
narrower dtype, two strides swapped, a tile left out, an epsilon dropped; and, to see that the inputs look everywhere,
a sign, a filler beyond the end or a reduction exchanged. Each applies at every place of a text where it can.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kernelevolve.syntax import parse, parse_expression

_LOADS = ("load", "store", "atomic_add")
_EXCHANGED = {"max": "min", "min": "max", "sum": "max", "cumsum": "sum", "argmax": "argmin"}
_SIZES = {"M", "N", "K", "width", "rows", "count", "keys", "length", "last", "parts"}
_SMALL = 1e-3  # constants above 0 and up to here are taken for an epsilon


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        operator: which one.
        place: the line of the honest text, without indentation.
        change: what stands there now.
        source: the whole text.
    """

    operator: str
    place: str
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a candidate's text, operator by operator, in the order of the text."""
    tree = parse(source)
    lines = ast.unparse(tree).splitlines()
    for name, operator in OPERATORS.items():
        for number in range(sum(1 for _ in operator(copy.deepcopy(tree)))):
            mutated = copy.deepcopy(tree)
            for i, change in enumerate(operator(mutated)):
                if i == number:
                    change()
                    break
            text = ast.unparse(ast.fix_missing_locations(mutated))
            now = text.splitlines()
            differing = [i for i, (a, b) in enumerate(zip(lines, now, strict=False)) if a != b]
            if differing:
                at = differing[0]
                yield Mutant(name, lines[at].strip(), now[at].strip(), f"{text}\n")


Change = Callable[[], None]
Operator = Callable[[ast.Module], Iterator[Change]]


def _kernels(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
            yield node


def _host(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node not in list(_kernels(tree)):
            yield node


def _in_kernels(tree: ast.Module) -> Iterator[ast.AST]:
    for kernel in _kernels(tree):
        for statement in kernel.body:
            yield from ast.walk(statement)


def _called(node: ast.AST) -> str:
    """`load` of `tl.load(...)`; empty for what is no such call."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.attr if node.func.value.id == "tl" else ""
    return ""


def _mask_dropped(tree: ast.Module) -> Iterator[Change]:
    for node in _in_kernels(tree):
        if isinstance(node, ast.Call) and _called(node) in _LOADS and any(k.arg == "mask" for k in node.keywords):

            def change(call: ast.Call = node) -> None:
                call.keywords = [k for k in call.keywords if k.arg not in ("mask", "other")]

            yield change


def _off_by_one(tree: ast.Module) -> Iterator[Change]:
    """One too few, then one too many, at each comparison with a size and at the end of each loop over one."""
    for node in _in_kernels(tree):
        for step in (-1, 1):
            if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt):
                if _is_size(node.comparators[0]):

                    def change(compare: ast.Compare = node, step: int = step) -> None:
                        compare.comparators[0] = _plus(compare.comparators[0], step)

                    yield change
            elif step < 0 and isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and len(node.iter.args) > 2:

                def shorten(call: ast.Call = node.iter) -> None:
                    call.args[1] = ast.BinOp(call.args[1], ast.Sub(), call.args[2])

                yield shorten


def _is_size(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in _SIZES


def _plus(node: ast.expr, step: int) -> ast.expr:
    return ast.BinOp(node, ast.Add() if step > 0 else ast.Sub(), ast.Constant(abs(step)))


def _narrow_sums(tree: ast.Module) -> Iterator[Change]:
    """What is added up in a loop is rounded to bf16 after each turn."""
    for loop in _in_kernels(tree):
        if not isinstance(loop, ast.For):
            continue
        for statement in loop.body:
            if isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add):

                def add(kept: ast.AugAssign = statement, body: list[ast.stmt] = loop.body) -> None:
                    assert isinstance(kept.target, ast.Name)
                    value = ast.BinOp(ast.Name(kept.target.id), ast.Add(), kept.value)
                    body[body.index(kept)] = ast.Assign([kept.target], _rounded(value), lineno=kept.lineno)

                yield add
            elif isinstance(statement, ast.Assign) and _called(statement.value) == "dot":

                def dot(kept: ast.Assign = statement) -> None:
                    kept.value = _rounded(kept.value)

                yield dot


def _rounded(value: ast.expr) -> ast.expr:
    for dtype in ("bfloat16", "float32"):
        value = ast.Call(ast.Attribute(value, "to"), [parse_expression(f"tl.{dtype}")], [])
    return value


def _strides_swapped(tree: ast.Module) -> Iterator[Change]:
    """Two neighbours among what a launch passes or a tuple of strides holds, both strides or both sizes."""
    for part in _host(tree):
        for node in ast.walk(part):
            held = node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
            for i in range(len(held) - 1):
                if _is_stride(held[i]) and _is_stride(held[i + 1]) and ast.dump(held[i]) != ast.dump(held[i + 1]):

                    def change(held: list[ast.expr] = held, i: int = i) -> None:
                        held[i], held[i + 1] = held[i + 1], held[i]

                    yield change


def _is_stride(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "stride"
    return isinstance(node, ast.Name) and node.id in ("rows", "width", "inner", "count", "keys")


def _tile_skipped(tree: ast.Module) -> Iterator[Change]:
    """One program less along each dimension of each grid."""
    for part in _host(tree):
        for node in ast.walk(part):
            grids: list[ast.expr] = [node.slice] if isinstance(node, ast.Subscript) else []
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "grid":
                grids = [node.value]
            for grid in grids:
                if not isinstance(grid, ast.Tuple) or (isinstance(node, ast.Subscript) and _sliced(grid)):
                    continue
                for i, size in enumerate(grid.elts):
                    if isinstance(size, (ast.Call, ast.Name, ast.BinOp, ast.Subscript)):

                        def change(grid: ast.Tuple = grid, i: int = i) -> None:
                            grid.elts[i] = _plus(grid.elts[i], -1)

                        yield change


def _sliced(grid: ast.Tuple) -> bool:
    return any(isinstance(e, (ast.Slice, ast.Constant)) for e in grid.elts)


def _epsilon_dropped(tree: ast.Module) -> Iterator[Change]:
    for node in _in_kernels(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and _is_small(node.right):

            def change(sum_: ast.BinOp = node) -> None:
                sum_.right = ast.Constant(0.0)

            yield change


def _is_small(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, float) and 0 < node.value <= _SMALL
    return isinstance(node, ast.Name) and node.id == "eps"


def _sign_exchanged(tree: ast.Module) -> Iterator[Change]:
    """Plus and minus between numbers, not between addresses."""
    for node in _in_kernels(tree):
        if isinstance(node, ast.Call) and _called(node) in _LOADS:
            continue
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.BinOp) and isinstance(child.op, (ast.Add, ast.Sub)) and not _address(child):

                def change(sum_: ast.BinOp = child) -> None:
                    sum_.op = ast.Sub() if isinstance(sum_.op, ast.Add) else ast.Add()

                yield change


def _address(node: ast.BinOp) -> bool:
    """Whether an expression counts elements: it holds an arange or a number of a program, or only names of such."""
    text = ast.unparse(node)
    return "arange" in text or "program" in text or "[:, None]" in text or "[None, :]" in text or "width +" in text


def _filler_exchanged(tree: ast.Module) -> Iterator[Change]:
    """Zero in place of an infinity that stands beyond the end."""
    for node in _in_kernels(tree):
        if isinstance(node, ast.Call) and _called(node) == "load":
            for keyword in node.keywords:
                if keyword.arg == "other" and "inf" in ast.unparse(keyword.value):

                    def change(keyword: ast.keyword = keyword) -> None:
                        keyword.value = ast.Constant(0.0)

                    yield change


def _reduction_exchanged(tree: ast.Module) -> Iterator[Change]:
    for node in _in_kernels(tree):
        if isinstance(node, ast.Call) and _called(node) in _EXCHANGED:

            def change(call: ast.Call = node) -> None:
                assert isinstance(call.func, ast.Attribute)
                call.func.attr = _EXCHANGED[call.func.attr]

            yield change


OPERATORS: dict[str, Operator] = {
    "mask dropped": _mask_dropped,
    "off by one": _off_by_one,
    "narrow sums": _narrow_sums,
    "strides swapped": _strides_swapped,
    "tile skipped": _tile_skipped,
    "epsilon dropped": _epsilon_dropped,
    "sign exchanged": _sign_exchanged,
    "filler exchanged": _filler_exchanged,
    "reduction exchanged": _reduction_exchanged,
}
