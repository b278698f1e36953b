"""Which numbers of a reference follow its sizes and its modules' attributes.

In: the reference's source, and vectors of numbers observed at several sizes. Out: the source with other numbers, and
for each vector an expression over named sizes. Running the perturbed sources is left to `capture`.

The method: literals in module assignments, ``get_inputs`` and ``get_init_inputs`` are changed one by one, those whose
change still runs are changed together. A number of the captured graph that moves with an input's or a parameter's
dimension is written as that dimension, one that moves with an attribute of a module (``self.max_length``) as that.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kernelevolve.syntax import parse
from kernelevolve.translate.expr import Expr, const, exact, floordiv, symbol

#: The first factors tried, another one for each literal and variant, so that no two literals move alike.
_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)

#: Literals tried at most: integers, and floats.
_LIMITS = (24, 8)


@dataclass(frozen=True)
class Literal:
    """A number in the source: position and value."""

    line: int
    column: int
    end: int
    value: int | float


@dataclass(frozen=True)
class Trial:
    """What was seen of a source that runs.

    Attributes:
        shapes: of inputs, parameters and buffers.
        numbers: the modules' attributes, see `attributes`.
        structure: the ops that ran, with the arguments that no expression can stand for, such as dimensions.
    """

    shapes: object
    numbers: Mapping[str, int | float]
    structure: object


def literals(source: str) -> tuple[Literal, ...]:
    """Integers above 1 and floats in module assignments, ``get_inputs`` and ``get_init_inputs``, in order."""
    tree = parse(source)
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
        if isinstance(node, ast.Constant)
        and ((type(node.value) is int and node.value > 1) or type(node.value) is float)
        and node.lineno == node.end_lineno
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda literal: (literal.line, literal.column)))


def with_values(source: str, values: Mapping[Literal, int | float]) -> str:
    """The source with some of its literals replaced."""
    lines = source.splitlines(keepends=True)
    for literal in sorted(values, key=lambda found: (found.line, -found.column)):
        raw = lines[literal.line - 1].encode()
        changed = raw[: literal.column] + repr(values[literal]).encode() + raw[literal.end :]
        lines[literal.line - 1] = changed.decode()
    return "".join(lines)


def perturb(source: str, variant: int, runs: Callable[[str], Trial | None], *, strict: bool = False) -> str | None:
    """A source with other numbers, as many literals changed as still run and change a shape or an attribute.

    Args:
        source: the reference.
        variant: 0 or 1; variants use different factors.
        runs: what is seen of a source, None where it does not run.
        strict: only changes that keep the structure; otherwise one that changes a shape may change the ops that run,
            which need not change the exported graph.

    Returns:
        The changed source, or None where nothing could be changed.
    """
    base = now = runs(source)
    if base is None or now is None:
        return None
    chosen: dict[Literal, int | float] = {}
    for turn, group in enumerate(_groups(literals(source))):
        if any(literal in chosen for literal in group):
            continue
        second: tuple[dict[Literal, int | float], Trial] | None = None
        for other in _others(group[0].value, turn, variant):
            trial = {**chosen, **dict.fromkeys(group, other)}
            seen = runs(with_values(source, trial))
            if seen is None or (seen.shapes == now.shapes and seen.numbers == now.numbers):
                continue
            if seen.structure == base.structure:
                chosen, now, second = trial, seen, None
                break
            if second is None and not strict and seen.shapes != now.shapes:
                second = trial, seen
        if second is not None:
            chosen, now = second
    return with_values(source, chosen) if chosen else None


def _groups(found: Sequence[Literal]) -> list[list[Literal]]:
    """Each literal alone, integers first, then equal ones together."""
    integers = [literal for literal in found if isinstance(literal.value, int)][: _LIMITS[0]]
    floats = [literal for literal in found if isinstance(literal.value, float)][: _LIMITS[1]]
    groups = [[literal] for literal in integers]
    for value in sorted({literal.value for literal in integers}):
        same = [literal for literal in integers if literal.value == value]
        groups += [same] if len(same) > 1 else []
    return groups + [[literal] for literal in floats]


def _others(value: int | float, turn: int, variant: int) -> list[int | float]:
    prime = _PRIMES[(2 * turn + 5 * variant) % len(_PRIMES)]
    if isinstance(value, float):
        return [value * (1 + 1 / prime) if value else 1 / prime, value * (1 - 1 / prime)]
    return [value * prime, value * (2 + variant), value + 1 + variant, max(value // (2 + variant), 1)]


def attributes(
    owner: object, path: str, own: Callable[[object], bool], depth: int = 3
) -> Iterator[tuple[str, int | float]]:
    """Paths and values of the plain numbers that an object holds.

    Args:
        owner: an object with a ``__dict__``, a tuple, a list or a dictionary.
        path: its host expression, such as ``self``.
        own: whether to look into an attribute that is an object; such as a configuration.
        depth: objects within objects followed at most.
    """
    parts: list[tuple[str, object]]
    if isinstance(owner, tuple | list):
        parts = [(f"{path}[{position}]", part) for position, part in enumerate(owner)]
    elif isinstance(owner, dict):
        parts = [(f"{path}[{key!r}]", part) for key, part in owner.items() if isinstance(key, str | int)]
    else:
        parts = [(f"{path}.{name}", part) for name, part in vars(owner).items() if not name.startswith("_")]
    for where, part in parts:
        if type(part) is int or type(part) is float:
            yield where, part
        elif depth and (type(part) in (tuple, list, dict) or (hasattr(part, "__dict__") and own(part))):
            yield from attributes(part, where, own, depth - 1)


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
                for sign in (1, -1):
                    rest = {v - a - sign * b for v, a, b in zip(vector, values, others, strict=True)}
                    # A sum and a constant fit any two sizes.
                    if rest == {0} or (len(rest) == 1 and len(vector) > 2):
                        return symbol(name) + symbol(other) * sign + rest.pop()
        return None

    def _window(self, vector: tuple[int, ...]) -> Expr | None:
        for name, values in self._sizes:
            for stride in range(2, 9):
                for shift in range(-16, 17):
                    if all(v == (s + shift) // stride for v, s in zip(vector, values, strict=True)):
                        return floordiv(symbol(name) + shift, stride, {})
        return None


#: Ways in which a number of the graph comes from an attribute: host source, and the same as a function.
_FORMS: tuple[tuple[str, Callable[[float], float]], ...] = (
    ("{}", lambda v: v),
    ("-{}", lambda v: -v),
    ("1.0 / {}", lambda v: 1.0 / v),
    ("1.0 - {}", lambda v: 1.0 - v),
    ("{} ** 0.5", lambda v: v**0.5),
    ("{} ** -0.5", lambda v: v**-0.5),
)


def from_attribute(values: Sequence[float], known: Mapping[str, Sequence[float]]) -> str | None:
    """Host source of a float that is an attribute, its negative, reciprocal, complement or root; else None.

    Args:
        values: at each size.
        known: host expression of each attribute → its value at each size.
    """
    for shape, function in _FORMS:
        for path, held in known.items():
            if shape != "{}" and any(v <= 0 for v in held):
                continue
            if all(math.isclose(v, function(h), rel_tol=1e-12) for v, h in zip(values, held, strict=True)):
                return shape.format(path)
    return None
