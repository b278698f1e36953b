"""Which integers of a reference follow its sizes.

In: the reference's source, and vectors of integers observed at several sizes. Out: the source with other sizes, and for
each vector an expression over named sizes. Running the perturbed sources is left to `capture`.

The method: integer literals in module assignments, ``get_inputs`` and ``get_init_inputs`` are changed one by one, those
whose change still runs are changed together, and an integer of the captured graph that moves with an input's or a
parameter's dimension is written as that dimension.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kernelevolve.translate.expr import Expr, const, exact, floordiv, symbol

#: The first factors tried, another one for each literal and variant, so that no two literals move alike.
_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


@dataclass(frozen=True)
class Literal:
    """An integer literal of the source: position and value."""

    line: int
    column: int
    end: int
    value: int


def literals(source: str) -> tuple[Literal, ...]:
    """The integer literals above 1 in module assignments, ``get_inputs`` and ``get_init_inputs``, in order."""
    tree = ast.parse(source)
    roots = [
        node.value if isinstance(node, ast.Assign) else node
        for node in tree.body
        if isinstance(node, ast.Assign)
        or (isinstance(node, ast.FunctionDef) and node.name in ("get_inputs", "get_init_inputs"))
    ]
    found = [
        Literal(node.lineno, node.col_offset, node.end_col_offset or 0, node.value)
        for root in roots
        for node in ast.walk(root)
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value > 1
    ]
    return tuple(sorted(found, key=lambda literal: (literal.line, literal.column)))


def with_values(source: str, values: dict[Literal, int]) -> str:
    """The source with some of its literals replaced."""
    lines = source.splitlines(keepends=True)
    for literal in sorted(values, key=lambda found: (found.line, -found.column)):
        raw = lines[literal.line - 1].encode()
        changed = raw[: literal.column] + str(values[literal]).encode() + raw[literal.end :]
        lines[literal.line - 1] = changed.decode()
    return "".join(lines)


def perturb(source: str, variant: int, runs: Callable[[str], object | None], limit: int = 24) -> str | None:
    """A source at other sizes, as many literals changed as still run and change a shape.

    Args:
        source: the reference.
        variant: 0 or 1; variants use different factors.
        runs: the shapes of inputs and parameters where a source runs, None where it does not.
        limit: literals tried at most.

    Returns:
        The changed source, or None where nothing could be changed.
    """
    found = literals(source)[:limit]
    chosen: dict[Literal, int] = {}
    shapes = runs(source)
    groups: list[list[Literal]] = [[literal] for literal in found]
    for value in sorted({literal.value for literal in found}):
        same = [literal for literal in found if literal.value == value]
        groups += [same] if len(same) > 1 else []
    for turn, group in enumerate(groups):
        if any(literal in chosen for literal in group):
            continue
        value = group[0].value
        prime = _PRIMES[(2 * turn + 5 * variant) % len(_PRIMES)]
        tries = [value * prime, value * (2 + variant), value + 1 + variant, max(value // (2 + variant), 1)]
        for other in tries:
            trial = {**chosen, **dict.fromkeys(group, other)}
            found_shapes = runs(with_values(source, trial))
            if found_shapes is not None and found_shapes != shapes:
                chosen, shapes = trial, found_shapes
                break
    return with_values(source, chosen) if chosen else None


class Fitter:
    """Writes vectors of integers as expressions over the sizes that were named so far."""

    def __init__(self) -> None:
        self._sizes: list[tuple[str, tuple[int, ...]]] = []
        self._known: dict[tuple[int, ...], Expr | None] = {}

    def name(self, name: str, values: tuple[int, ...]) -> None:
        """Adds a named size."""
        self._sizes.append((name, values))
        self._known.clear()

    def fit(self, values: Sequence[int], *, simple: bool = False) -> Expr | None:
        """The expression with these values, or None; ``simple`` allows only products and exact quotients."""
        vector = tuple(values)
        if all(v == vector[0] for v in vector):
            return const(vector[0])
        if simple:
            return self._product(vector, 4)
        if vector not in self._known:
            self._known[vector] = self._product(vector, 5) or self._sum(vector) or self._window(vector)
        return self._known[vector]

    def fit_float(self, values: Sequence[float]) -> str | None:
        """Host source of a float that is a power of a size: e, 1/e, e ** 0.5 or e ** -0.5; None where it is not."""
        if any(v <= 0 or not math.isfinite(v) for v in values):
            return None
        for shape, power in (("{}", 1.0), ("1.0 / {}", -1.0), ("{} ** 0.5", 2.0), ("{} ** -0.5", -2.0)):
            inverted = [v**power for v in values]
            whole = [round(v) for v in inverted]
            if all(w > 0 and math.isclose(v, w, rel_tol=1e-6) for v, w in zip(inverted, whole, strict=True)):
                expr = self.fit(whole)
                if expr is not None:
                    return shape.format(f"({expr})")
        return None

    def _product(self, vector: tuple[int, ...], depth: int) -> Expr | None:
        if all(v == vector[0] for v in vector):
            return const(vector[0])
        if depth == 0:
            return None
        for name, values in self._sizes:
            if values == vector:
                return symbol(name)
        for name, values in self._sizes:
            if all(s and v % s == 0 for v, s in zip(vector, values, strict=True)):
                rest = self._product(tuple(v // s for v, s in zip(vector, values, strict=True)), depth - 1)
                if rest is not None:
                    return symbol(name) * rest
        for name, values in self._sizes:
            if all(v and s % v == 0 for v, s in zip(vector, values, strict=True)):
                divisor = self._product(tuple(s // v for v, s in zip(vector, values, strict=True)), min(depth - 1, 1))
                if divisor is not None:
                    return exact(symbol(name), divisor)
        return None

    def _sum(self, vector: tuple[int, ...]) -> Expr | None:
        for name, values in self._sizes:
            steps = {v - s for v, s in zip(vector, values, strict=True)}
            if len(steps) == 1:
                return symbol(name) + steps.pop()
        for name, values in self._sizes:
            run, rise = values[1] - values[0], vector[1] - vector[0]
            if run and rise % run == 0:
                slope = rise // run
                start = vector[0] - slope * values[0]
                if all(v == slope * s + start for v, s in zip(vector, values, strict=True)):
                    return symbol(name) * slope + start
        for name, values in self._sizes:
            for other, others in self._sizes:
                if all(v == a + b for v, a, b in zip(vector, values, others, strict=True)):
                    return symbol(name) + symbol(other)
                if all(v == a - b for v, a, b in zip(vector, values, others, strict=True)):
                    return symbol(name) - symbol(other)
        return None

    def _window(self, vector: tuple[int, ...]) -> Expr | None:
        for name, values in self._sizes:
            for stride in range(2, 9):
                for shift in range(-16, 17):
                    if all(v == (s + shift) // stride for v, s in zip(vector, values, strict=True)):
                        return floordiv(symbol(name) + shift, stride, {})
        return None
