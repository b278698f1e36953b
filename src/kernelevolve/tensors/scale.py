"""A problem's text made small enough for the interpreter, and a ragged variant of it.

In: the text, the problem's rules, a budget. Out: edited text (only numbers change, line numbers stay) and what was
changed, one line each. Left to others: running it (`describe`, `worker`).

How: every integer literal of at least 16 in top-level assignments, `get_inputs` and `get_init_inputs` is a candidate;
products and powers of literals on one line count as their value; equal values scale together. Step by step the largest
is divided as long as the cost falls and the reference still runs under fake tensors (so divisibility by groups and
heads is found out, not assumed), until the cost fits the budget. The result must also run for real. The ragged variant
replaces each value by a nearby prime, else an odd number, unequal ones where it can, as far as the reference runs.
"""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve.errors import KernelEvolveError
from kernelevolve.problem import Problem
from kernelevolve.syntax import parse
from kernelevolve.tensors.call import run
from kernelevolve.tensors.load import blamed, build_model, declared_inputs, load_module, seeded
from kernelevolve.tensors.probe import Cost, Probe, probe

LEAST = 16  # smaller literals are kernel sizes, strides, groups, heads: structure, not size
MOST = 1 << 40  # larger literals are bounds of random integers and hash constants
PATIENCE = 8.0  # times the budget that keeping the output dependent on its inputs may cost
FACTORS = (8, 4, 2)
FLOORS = (8, 4, 2)  # values are first kept at 8 or more, then at 4, then at 2


@dataclass(frozen=True)
class Budget:
    """What the interpreter can run in seconds.

    Attributes:
        largest: elements of the largest tensor.
        elements: elements of all tensors written by the reference.
        flops: of its products and convolutions.
        seconds: to spend on finding small sizes, and once more on ragged ones.
    """

    largest: int = 1 << 16
    elements: int = 1 << 19
    flops: int = 1 << 26
    seconds: float = 20.0

    def excess(self, cost: Cost) -> float:
        """How many times the cost exceeds the budget; at most 1 = it fits."""
        return max(cost.largest / self.largest, cost.elements / self.elements, cost.flops / self.flops)


@dataclass(frozen=True)
class Scaled:
    """The small texts; `ragged` is empty where no other size runs."""

    scaled: str
    changes: tuple[str, ...]
    cost: Cost
    ragged: str = ""
    ragged_changes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Literal:
    """One integer in the text: bytes `start` to `end` of line `line` (from 1)."""

    line: int
    start: int
    end: int
    value: int


def literals(source: str) -> list[Literal]:
    """The candidates, in the order of the text."""
    found = []
    for statement in parse(source).body:
        function = isinstance(statement, ast.FunctionDef) and statement.name in ("get_inputs", "get_init_inputs")
        if function or isinstance(statement, (ast.Assign, ast.AnnAssign)):
            found += [n for n in _numbers(statement) if LEAST <= n.value <= MOST]
    return sorted(found, key=lambda n: (n.line, n.start))


def _numbers(node: ast.AST) -> Iterator[Literal]:
    value = _folded(node) if isinstance(node, ast.expr) and node.lineno == node.end_lineno else None
    if value is not None and isinstance(node, ast.expr):
        yield Literal(node.lineno, node.col_offset, node.end_col_offset or 0, value)
        return
    for child in ast.iter_child_nodes(node):
        yield from _numbers(child)


def _folded(node: ast.expr) -> int | None:
    """The value of an integer literal, or of a sum, product or power of such; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _folded(node.left), _folded(node.right)
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Mult):
        return left * right
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    if isinstance(node.op, ast.FloorDiv) and right:
        return left // right
    if isinstance(node.op, ast.Pow) and 0 <= right <= 64:
        return int(left**right)
    return int(left << right) if isinstance(node.op, ast.LShift) and 0 <= right <= 64 else None


def replace(source: str, sizes: Mapping[int, int]) -> str:
    """`source` with each candidate literal of value `v` written as `sizes[v]`."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    for n in reversed(literals(source)):
        if sizes.get(n.value, n.value) != n.value:
            raw = lines[n.line - 1]
            lines[n.line - 1] = raw[: n.start] + str(sizes[n.value]).encode() + raw[n.end :]
    return b"".join(lines).decode()


def changes(source: str, sizes: Mapping[int, int]) -> tuple[str, ...]:
    """What `replace` changes: `4096 -> 64 (lines 12, 15)`."""
    lines: dict[int, list[int]] = {}
    for n in literals(source):
        if sizes.get(n.value, n.value) != n.value and n.line not in lines.setdefault(n.value, []):
            lines[n.value].append(n.line)
    return tuple(
        f"{value} -> {sizes[value]} (line{'s' if len(at) > 1 else ''} {', '.join(map(str, at))})"
        for value, at in lines.items()
    )


def scale(source: str, problem: Problem, budget: Budget) -> Scaled:
    """The small and the ragged text of `source`.

    Raises:
        ProblemError: the reference does not run at its own size.
    """
    search = _Search(source, problem, budget)
    search.shrink()
    search.keep_dependence()
    search.make_runnable()
    cost = search.probe.cost
    labels = (f"scaled reference exceeds the interpreter's budget {budget.excess(cost):.1f} times",)
    small = replace(source, search.sizes)
    ragged = search.ragged()
    return Scaled(
        small,
        changes(source, search.sizes),
        cost,
        replace(source, ragged) if ragged else "",
        changes(source, ragged) if ragged else (),
        labels if budget.excess(cost) > 1 else (),
    )


class _Search:
    """Sizes by original value, and whether the reference runs with them."""

    def __init__(self, source: str, problem: Problem, budget: Budget) -> None:
        self.source, self.problem, self.budget = source, problem, budget
        self.deadline = time.monotonic() + budget.seconds
        self.real = False
        try:
            self.full = probe(source, problem, real=False)
        except KernelEvolveError:
            self.real = True
            self.full = probe(source, problem)
        self.probe = self.full
        self.sizes = {n.value: n.value for n in literals(source)}
        self.history: list[dict[int, int]] = [dict(self.sizes)]
        self.pinned: set[int] = set()

    def shrink(self) -> None:
        """Divides the largest value that helps, or two at once, until the cost fits or nothing helps."""
        for floor in FLOORS:
            stuck: set[tuple[int, ...]] = set()
            while self.budget.excess(self.probe.cost) > 1 and time.monotonic() < self.deadline:
                move = next((m for m in self._moves(floor) if m not in stuck), None)
                if move is None:
                    break
                if self._divide(move, floor):
                    stuck.clear()
                else:
                    stuck.add(move)

    def _moves(self, floor: int) -> Iterator[tuple[int, ...]]:
        """Single values, largest first; then pairs, for sizes that must stay in proportion."""
        values = sorted(
            (v for v in self.sizes if self.sizes[v] > floor and v not in self.pinned),
            key=lambda v: (-self.sizes[v], -v),
        )
        yield from ((v,) for v in values)
        yield from itertools.combinations(values, 2)

    def _divide(self, values: tuple[int, ...], floor: int) -> bool:
        excess = self.budget.excess(self.probe.cost)
        for factor in FACTORS if len(values) == 1 else (2,):
            smaller = {v: max(self.sizes[v] // factor, floor) for v in values}
            if (factor > 2 and excess < factor) or all(smaller[v] == self.sizes[v] for v in values):
                continue
            tried = self._try({**self.sizes, **smaller})
            if tried is not None and _total(tried.cost) < _total(self.probe.cost):
                self.sizes |= smaller
                self.probe = tried
                self.history.append(dict(self.sizes))
                return True
        return False

    def _try(self, sizes: Mapping[int, int]) -> Probe | None:
        try:
            seen = probe(replace(self.source, sizes), self.problem, real=self.real)
        except KernelEvolveError:
            return None
        return seen if self._meaningful(seen) else None

    def _meaningful(self, seen: Probe) -> bool:
        """Same structure as at full size: ranks, types, and no dimension that became 1 or 0."""
        for mine, full in ((seen.inputs, self.full.inputs), (seen.outputs, self.full.outputs)):
            if len(mine) != len(full):
                return False
            for (_, a), (_, b) in zip(mine, full, strict=True):
                shape, declared = getattr(a, "shape", ()), getattr(b, "shape", ())
                if len(shape) != len(declared) or getattr(a, "dtype", None) != getattr(b, "dtype", None):
                    return False
                if any(x < min(2, y) for x, y in zip(shape, declared, strict=True)):
                    return False
        return True

    def keep_dependence(self) -> None:
        """Where the small output no longer depends on the inputs (one channel left per group), starts again without
        touching the one size that restores it; where no single one does, the problem itself is so."""
        if self._depends(self.sizes):
            return
        for value in sorted(v for v in self.sizes if self.sizes[v] != v):
            if time.monotonic() > self.deadline:
                return
            attempt = {**self.sizes, value: value}
            tried = self._try(attempt)
            if tried is None or self.budget.excess(tried.cost) > PATIENCE or not self._depends(attempt):
                continue
            small, self.pinned = (self.sizes, self.probe, self.history), {value}
            self.sizes, self.probe = {v: v for v in self.sizes}, self.full
            self.history = [dict(self.sizes)]
            self.shrink()
            if self.budget.excess(self.probe.cost) <= PATIENCE and self._depends(self.sizes):
                return
            (self.sizes, self.probe, self.history), self.pinned = small, set()

    def _depends(self, sizes: Mapping[int, int]) -> bool:
        """Whether other inputs give another output, with weights that are not all equal."""
        first, second = self._outputs(sizes, 1), self._outputs(sizes, 2)
        if first is None or second is None:
            return False
        return any(_differs(a, b) for (_, a), (_, b) in zip(first, second, strict=True))

    def make_runnable(self) -> None:
        """Goes back, step by step, to the smallest sizes at which the reference also runs with real numbers."""
        while not self._runs(self.sizes):
            self.history.pop()
            if len(self.history) < 2:  # the full size itself is not run here
                self.sizes, self.probe = dict(self.history[0]), self.full
                return
            self.sizes = dict(self.history[-1])
            self.probe = self._try(self.sizes) or self.full

    def _runs(self, sizes: Mapping[int, int]) -> bool:
        return self._outputs(sizes, 0) is not None

    def _outputs(self, sizes: Mapping[int, int], seed: int) -> list[tuple[str, Any]] | None:
        """Real outputs at these sizes, with noise on all weights; None where the reference raises."""
        try:
            module = load_module(replace(self.source, sizes), self.problem.path)
            model = build_model(module, seed=0, precision=self.problem.precision, mode=self.problem.mode)
            with torch.no_grad(), seeded(0):
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter.dtype))
            arguments = _cast_like(declared_inputs(module, seed=seed), self.probe)
            with blamed(module.__file__ or "", self.problem.path, "forward"), seeded(0):
                return run(model, arguments)
        except KernelEvolveError:
            return None

    def ragged(self) -> dict[int, int]:
        """Sizes near the scaled ones that divide nothing; empty where the reference accepts none."""
        sizes, now = dict(self.sizes), self.probe
        for value in sorted(sizes, reverse=True):
            if time.monotonic() > self.deadline + self.budget.seconds:
                break
            taken = {size for v, size in sizes.items() if v != value}
            for other in sorted(_ragged_near(sizes[value]), key=lambda n: n in taken):  # unequal sizes show transposes
                attempt = {**sizes, value: other}
                tried = self._try(attempt)
                if tried is not None and _shapes(tried) == _shapes(now):
                    break  # a number that is no size, such as a modulus or a bound
                if tried is not None and self.budget.excess(tried.cost) < 2 and self._runs(attempt):
                    sizes[value], now = other, tried
                    break
        return sizes if sizes != self.sizes else {}


def _differs(one: Any, other: Any) -> bool:
    if not one.is_floating_point():
        return not torch.equal(one, other)
    a, b = one.double().nan_to_num(), other.double().nan_to_num()
    return bool((a - b).square().sum().item() > 1e-10 * a.square().sum().item())


def _cast_like(arguments: list[Any], seen: Probe) -> list[Any]:
    leaves, tree = pytree.tree_flatten(arguments)
    wanted = [leaf for _, leaf in seen.inputs]
    cast = [a.to(w.dtype) if hasattr(w, "dtype") else a for a, w in zip(leaves, wanted, strict=True)]
    return list(pytree.tree_unflatten(cast, tree))


def _shapes(seen: Probe) -> list[tuple[int, ...]]:
    leaves = [leaf for _, leaf in (*seen.inputs, *seen.outputs)] + [tensor for tensor, _ in seen.state.values()]
    return [tuple(getattr(leaf, "shape", ())) for leaf in leaves]


def _total(cost: Cost) -> tuple[int, int]:
    return cost.elements + cost.flops, cost.largest


def _ragged_near(size: int) -> list[int]:
    """The nearest primes, odd neighbours, and for multiples of 2, 4, 8 an odd multiple of these; best first."""
    if size < 4:
        return [size + 1]
    below = itertools.islice((n for n in range(size - 1, size // 2, -1) if _prime(n)), 3)
    above = itertools.islice((n for n in range(size + 1, 2 * size + 3) if _prime(n)), 2)
    multiples = [size - size // k for k in (4, 8, 2) if size % k == 0 and size // k > 1]
    return list(dict.fromkeys([*below, *above, size - 1, size + 1, *multiples, *(size + size // k for k in (4, 2))]))


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
