"""Arithmetic of coordinates: positions in shapes, and expressions with names replaced.

In: expressions whose names are coordinates with known extents (0 <= coordinate < extent), or sizes. Out: simplified
expressions. The normal form, quotients and remainders are `expr`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernelevolve.translate.expr import (
    ONE,
    ZERO,
    Exact,
    Expr,
    Extents,
    Monomial,
    Quotient,
    Remainder,
    const,
    exact,
    floordiv,
    mod,
    symbol,
)  # fmt: skip


def recombine(expr: Expr) -> Expr:
    """Undoes a split: ``(e % d) * c + (e // d) * c * d`` becomes ``e * c``."""
    changed = True
    while changed:
        changed = False
        for monomial, coefficient in expr.terms:
            for atom in monomial:
                if not isinstance(atom, Remainder):
                    continue
                rest = list(monomial)
                rest.remove(atom)
                scale = Expr(((tuple(rest), coefficient),))
                whole = Expr((((Quotient(atom.numerator, atom.denominator),), 1),)) * atom.denominator * scale
                if whole.terms and all(dict(expr.terms).get(m) == c for m, c in whole.terms):
                    part = Expr((((atom,), 1),)) * scale
                    expr = expr - whole - part + atom.numerator * scale
                    changed = True
                    break
            if changed:
                break
    return expr


def substitute(expr: Expr, values: Mapping[str, Expr], extents: Extents) -> Expr:
    """Replaces names by expressions and simplifies; ``extents`` are those of the names that remain."""
    if not (expr.names() & values.keys()):
        return expr
    total = ZERO
    for monomial, coefficient in expr.terms:
        term = const(coefficient)
        for atom in monomial:
            if isinstance(atom, str):
                term = term * values.get(atom, symbol(atom))
            else:
                numerator = substitute(atom.numerator, values, extents)
                denominator = substitute(atom.denominator, values, extents)
                if isinstance(atom, Exact):
                    term = term * exact(numerator, denominator)
                else:
                    step = floordiv if isinstance(atom, Quotient) else mod
                    term = term * step(numerator, denominator, extents)
        total = total + term
    return recombine(total)


def flatten(coordinates: list[Expr], shape: list[Expr]) -> Expr:
    """The row-major position of coordinates in a shape."""
    total = ZERO
    for coordinate, size in zip(coordinates, shape, strict=True):
        total = total * size + coordinate
    return recombine(total)


def unflatten(position: Expr, shape: list[Expr], extents: Extents) -> list[Expr]:
    """The coordinates of a row-major position in a shape (the first one is taken as in range)."""
    coordinates: list[Expr] = []
    for axis in range(len(shape) - 1, 0, -1):
        if shape[axis] == ONE:
            coordinates.append(ZERO)
            continue
        if all(size == ONE for size in shape[:axis]):
            coordinates.append(position)
            position = ZERO
            continue
        coordinates.append(mod(position, shape[axis], extents))
        position = floordiv(position, shape[axis], extents)
    if shape:
        coordinates.append(ZERO if shape[0] == ONE else position)
    return coordinates[::-1]


def coefficients(expr: Expr, names: frozenset[str]) -> dict[Monomial, Expr]:
    """Groups the terms by their product of atoms that hold one of ``names``; the rest becomes the coefficient."""
    grouped: dict[Monomial, Expr] = {}
    for monomial, c in expr.terms:
        inside = tuple(a for a in monomial if _atom_names(a) & names)
        outside = tuple(a for a in monomial if not (_atom_names(a) & names))
        grouped[inside] = grouped.get(inside, ZERO) + Expr(((outside, c),))
    return grouped


def _atom_names(atom: str | Quotient | Remainder) -> frozenset[str]:
    return frozenset((atom,)) if isinstance(atom, str) else atom.numerator.names() | atom.denominator.names()
