"""Integer expressions over sizes and coordinates.

In: names (sizes such as ``batch_size``, coordinates such as ``row``) and integers. Out: expressions in polynomial
normal form, so that equal index arithmetic is equal as a value; simplification of quotients and remainders from the
known extents of coordinates; source text for host and device. What a name stands for is left to the caller.

An expression is a sum of products. An *atom* of a product is a name, or a quotient or remainder of two expressions that
could not be simplified.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from kernelevolve.syntax import parse_expression
from kernelevolve.translate.errors import TranslateError

Extents = Mapping[str, "Expr"]


@dataclass(frozen=True)
class Quotient:
    """``numerator // denominator``, rounded down."""

    numerator: Expr
    denominator: Expr


@dataclass(frozen=True)
class Remainder:
    """``numerator % denominator``, never negative for a positive denominator."""

    numerator: Expr
    denominator: Expr


def _order(atom: str | Quotient | Remainder) -> tuple[int, str]:
    return (0, atom) if isinstance(atom, str) else (1, repr(atom))


@dataclass(frozen=True)
class Exact(Quotient):
    """A quotient without remainder, so that it cancels against its denominator."""


Monomial = tuple["str | Quotient | Remainder", ...]


@dataclass(frozen=True)
class Expr:
    """A polynomial with integer coefficients: ``terms`` pairs each product of atoms with its coefficient."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Expr | int) -> Expr:
        merged = dict(self.terms)
        for monomial, coefficient in const(other).terms:
            merged[monomial] = merged.get(monomial, 0) + coefficient
        return _make(merged)

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: Expr | int) -> Expr:
        return self + const(other) * -1

    def __rsub__(self, other: int) -> Expr:
        return const(other) - self

    def __mul__(self, other: Expr | int) -> Expr:
        merged: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in const(other).terms:
                monomial = tuple(sorted(left + right, key=_order))
                merged[monomial] = merged.get(monomial, 0) + a * b
        return _make(merged)

    __rmul__ = __mul__

    @property
    def value(self) -> int | None:
        """The integer this is, or None where it holds a name."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    @property
    def name(self) -> str | None:
        """The single name this is, or None."""
        if len(self.terms) == 1:
            monomial, coefficient = self.terms[0]
            if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], str):
                return monomial[0]
        return None

    def names(self) -> frozenset[str]:
        """Every name that occurs, inside quotients and remainders too."""
        return _names(self)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The value where each name is the given integer."""
        total = 0
        for monomial, coefficient in self.terms:
            product = coefficient
            for atom in monomial:
                if isinstance(atom, str):
                    product *= sizes[atom]
                elif isinstance(atom, Quotient):
                    product *= atom.numerator.evaluate(sizes) // atom.denominator.evaluate(sizes)
                else:
                    product *= atom.numerator.evaluate(sizes) % atom.denominator.evaluate(sizes)
            total += product
        return total

    def __str__(self) -> str:
        return text(self)


@lru_cache(maxsize=100_000)
def _names(expr: Expr) -> frozenset[str]:
    found: set[str] = set()
    for monomial, _ in expr.terms:
        for atom in monomial:
            if isinstance(atom, str):
                found.add(atom)
            else:
                found |= _names(atom.numerator) | _names(atom.denominator)
    return frozenset(found)


def _make(terms: Mapping[Monomial, int]) -> Expr:
    kept = [(monomial, c) for monomial, c in terms.items() if c]
    for position, (monomial, c) in enumerate(kept):
        if any(isinstance(atom, Exact) for atom in monomial):
            whole = _cancelled(monomial, c)
            if whole is not None:
                return _make(dict(kept[:position] + kept[position + 1 :])) + whole
    return Expr(tuple(sorted(kept, key=lambda term: (-len(term[0]), [_order(atom) for atom in term[0]]))))


def _cancelled(monomial: Monomial, coefficient: int) -> Expr | None:
    """The product without one exact quotient whose denominator divides the rest, None where there is none."""
    for atom in monomial:
        if isinstance(atom, Exact):
            rest = list(monomial)
            rest.remove(atom)
            whole = divide_exactly(Expr(((tuple(rest), coefficient),)), atom.denominator)
            if whole is not None:
                return whole * atom.numerator
    return None


def const(value: Expr | int) -> Expr:
    """An integer as an expression; an expression stays itself."""
    if isinstance(value, Expr):
        return value
    return Expr((((), int(value)),)) if value else Expr(())


def symbol(name: str) -> Expr:
    """A name as an expression."""
    return Expr((((name,), 1),))


ZERO, ONE = const(0), const(1)


def product(values: tuple[Expr, ...] | list[Expr]) -> Expr:
    """The product of all, 1 for none."""
    total = ONE
    for value in values:
        total = total * value
    return total


def divide_exactly(numerator: Expr, denominator: Expr) -> Expr | None:
    """The quotient where the denominator is one product that divides each term, else None."""
    if len(denominator.terms) != 1:
        return ONE if numerator == denominator else None
    if numerator == denominator:
        return ONE
    atoms, divisor = denominator.terms[0]
    for atom in atoms:
        if isinstance(atom, Exact) and not all(atom in monomial for monomial, _ in numerator.terms):
            rest = list(atoms)
            rest.remove(atom)
            return divide_exactly(numerator * atom.denominator, Expr(((tuple(rest), divisor),)) * atom.numerator)
    terms: dict[Monomial, int] = {}
    for monomial, coefficient in numerator.terms:
        left = list(monomial)
        if coefficient % divisor:
            return None
        for atom in atoms:
            if atom not in left:
                return None
            left.remove(atom)
        terms[tuple(left)] = coefficient // divisor
    return _make(terms)


def _split(numerator: Expr, denominator: Expr) -> tuple[Expr, Expr]:
    """(q, r) with numerator = q * denominator + r, moving every term that divides exactly into q."""
    quotient, rest = ZERO, ZERO
    for monomial, coefficient in numerator.terms:
        term = Expr(((monomial, coefficient),))
        whole = divide_exactly(term, denominator)
        value = denominator.value
        if whole is not None:
            quotient = quotient + whole
        elif value and value > 1 and not monomial:
            quotient, rest = quotient + coefficient // value, rest + coefficient % value
        else:
            rest = rest + term
    return quotient, rest


def _all_nonnegative(expr: Expr) -> bool:
    """True when provably >= 0 because each size is at least 1: terms of sizes alone may pay for a negative constant.

    An exact quotient of sizes is a size; any other quotient, and a remainder, may be 0.
    """
    if any(c < 0 for monomial, c in expr.terms if monomial):
        return False
    return sum(c for monomial, c in expr.terms if all(isinstance(a, str | Exact) for a in monomial)) >= 0


def greatest(expr: Expr, extents: Extents) -> Expr | None:
    """An upper bound (reached or not) of a sum of non-negative terms over coordinates; None where it is not known."""
    total = ZERO
    for monomial, coefficient in expr.terms:
        if coefficient < 0:
            return None
        bound = const(coefficient)
        for atom in monomial:
            if isinstance(atom, str):
                bound = bound * (extents[atom] - 1 if atom in extents else symbol(atom))
            elif isinstance(atom, Remainder):
                bound = bound * (atom.denominator - 1)
            else:
                top = greatest(atom.numerator, extents)
                if top is None:
                    return None
                whole = divide_exactly(top + 1, atom.denominator)
                if whole is None:
                    return None
                bound = bound * (whole - 1)
        total = total + bound
    return total


def _below(expr: Expr, limit: Expr, extents: Extents) -> bool:
    top = greatest(expr, extents)
    return top is not None and _all_nonnegative(limit - 1 - top)


def floordiv(numerator: Expr, denominator: Expr | int, extents: Extents) -> Expr:
    """``numerator // denominator``, simplified with the coordinates' extents (0 <= coordinate < extent)."""
    denominator = const(denominator)
    if denominator == ONE:
        return numerator
    n, d = numerator.value, denominator.value
    if n is not None and d:
        return const(n // d)
    whole, rest = _split(numerator, denominator)
    if rest == ZERO or _below(rest, denominator, extents):
        return whole
    return whole + Expr((((Quotient(rest, denominator),), 1),))


def exact(numerator: Expr, denominator: Expr | int) -> Expr:
    """``numerator // denominator`` where the caller knows that nothing remains."""
    denominator = const(denominator)
    whole = ONE * numerator if denominator == ONE else divide_exactly(numerator, denominator)
    return whole if whole is not None else Expr((((Exact(numerator, denominator),), 1),))


def mod(numerator: Expr, denominator: Expr | int, extents: Extents) -> Expr:
    """``numerator % denominator``, simplified with the coordinates' extents."""
    denominator = const(denominator)
    if denominator == ONE:
        return ZERO
    n, d = numerator.value, denominator.value
    if n is not None and d:
        return const(n % d)
    _, rest = _split(numerator, denominator)
    if rest == ZERO or _below(rest, denominator, extents):
        return rest
    return Expr((((Remainder(rest, denominator),), 1),))














def text(expr: Expr, name: Callable[[str], str] = str, exact_call: bool = False) -> str:
    """Python source of the expression; valid on the host and in a Triton kernel."""
    if not expr.terms:
        return "0"
    parts: list[str] = []
    for monomial, coefficient in expr.terms:
        factors = [_atom_text(atom, name, exact_call) for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.append(str(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+"
        parts.append(f"{sign} {' * '.join(factors)}")
    parts.sort(key=lambda part: part[0] == "-")
    joined = " ".join(parts)
    return joined[2:] if joined.startswith("+ ") else "-" + joined[2:]


def canonical(expr: Expr) -> str:
    """Like `text`, but quotients known to be exact are written as calls, so that `parse` gives the same expression."""
    return text(expr, str, exact_call=True)


def _atom_text(atom: str | Quotient | Remainder, name: Callable[[str], str], exact_call: bool) -> str:
    if isinstance(atom, str):
        return name(atom)
    if exact_call and isinstance(atom, Exact):
        return f"exact({text(atom.numerator, name, exact_call)}, {text(atom.denominator, name, exact_call)})"
    sign = "//" if isinstance(atom, Quotient) else "%"
    return f"({_wrapped(atom.numerator, name, exact_call)} {sign} {_wrapped(atom.denominator, name, exact_call)})"


def _wrapped(expr: Expr, name: Callable[[str], str], exact_call: bool) -> str:
    shown = text(expr, name, exact_call)
    single = len(expr.terms) <= 1 and (not expr.terms or len(expr.terms[0][0]) + (abs(expr.terms[0][1]) != 1) <= 1)
    return shown if single and not shown.startswith("-") else f"({shown})"


def parse(source: str | int) -> Expr:
    """Reads what `text` wrote.

    Raises:
        TranslateError: the source holds anything but names, integers, ``+ - * // %`` and brackets.
    """
    if isinstance(source, int):
        return const(source)
    return _parse(source)


@lru_cache(maxsize=100_000)
def _parse(source: str) -> Expr:
    return _read(parse_expression(source))


def _read(node: ast.expr) -> Expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return const(node.value)
    if isinstance(node, ast.Name):
        return symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_read(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _read(node.left), _read(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.FloorDiv():
                return floordiv(left, right, {})
            case ast.Mod():
                return mod(left, right, {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "exact":
        return exact(_read(node.args[0]), _read(node.args[1]))
    raise TranslateError(f"cannot read the size {ast.unparse(node)!r}: only + - * // % of names and integers")
