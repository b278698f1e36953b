"""The body of one Triton kernel: its lines, names, scopes, index arithmetic and parameters.

In: what a writer wants to name, index or pass. Out: lines of Triton, and the parameters that the launch must pass.
A value stands in the outermost scope (before or inside a loop) in which all that it depends on exists, and once per
scope. Which values there are is left to `writer`.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from kernelevolve.translate.algebra import Graph
from kernelevolve.translate.coordinates import coefficients
from kernelevolve.translate.emit.functions import COMPUTE
from kernelevolve.translate.emit.reader import Coordinates, Reader
from kernelevolve.translate.expr import Expr, Quotient, Remainder, symbol, text
from kernelevolve.translate.ir import COORDINATES


@dataclass(frozen=True)
class Var:
    """A value in the kernel: source text, the axes it varies along, and its torch dtype; a literal has no type yet."""

    text: str
    axes: frozenset[str]
    dtype: str
    literal: bool = False


@dataclass
class Parameters:
    """What a launch passes: parameter → node (pointers), or parameter → host expression."""

    pointers: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)


@dataclass
class _Scope:
    axes: frozenset[str]
    lines: list[str] = field(default_factory=list)
    memory: dict[tuple[str, Coordinates, tuple[str, ...]], Var] = field(default_factory=dict)


def computed(dtype: str) -> str:
    """The dtype in which a value lives in the kernel."""
    return COMPUTE.get(dtype, dtype)


_BUILTINS = {
    "sum", "max", "min", "abs", "range", "len", "pow", "any", "all", "round", "float", "int", "bool", "print",
    "map", "filter", "index", "input", "iter", "next", "slice", "sorted", "tuple", "type", "vars", "zip", "hash", "id",
    "torch", "knob", "nn",
}  # fmt: skip


class Body(Reader[Var]):
    """One kernel's body.

    Args:
        graph: what is written.
        stored: nodes in memory.
        name: the kernel's name, which no variable may take.
    """

    def __init__(self, graph: Graph, stored: frozenset[str], name: str) -> None:
        super().__init__(graph, stored, {}, {})
        self.scopes = [_Scope(frozenset())]
        self.parameters = Parameters()
        self.depends: dict[str, frozenset[str]] = {}
        self.masks: dict[str, str] = {}
        self.tile: tuple[tuple[str, str], ...] = ()
        self.uses: set[str] = set()
        self.wide = False
        self._taken = {name, "tl", "triton", "libdevice", *COORDINATES}
        self._sizes: dict[str, str] = {}

    # -- names and scopes

    def fresh(self, wanted: str) -> str:
        """A name that is not in use."""
        base = re.sub(r"\W+", "_", wanted).strip("_") or "value"
        base = f"v_{base}" if base[0].isdigit() or keyword.iskeyword(base) else base
        name, turn = base, 1
        while name in self._taken or name in _BUILTINS:
            turn += 1
            name = f"{base}_{turn}"
        self._taken.add(name)
        return name

    def reserve(self, name: str) -> str:
        """Takes exactly this name."""
        self._taken.add(name)
        return name

    def line(self, source: str) -> None:
        """Writes a line in the innermost scope."""
        self.scopes[-1].lines.append(source)

    def axis(self, name: str, extent: Expr, mask: str | None = None, *, tile: bool) -> Expr:
        """Declares a coordinate that exists from now on; ``tile`` says whether it is a block of positions."""
        self.reserve(name)
        self.extents[name] = extent
        self.depends[name] = frozenset((name,)) if tile else frozenset()
        if not tile:
            self.depends[name] = frozenset((f"scalar {name}",))
        self.scopes[-1].axes |= self.depends[name]
        if mask is not None:
            self.masks[name] = mask
        return symbol(name)

    @contextmanager
    def loop(self, header: str) -> Iterator[None]:
        """A loop; what is written inside and depends on its axes stays inside."""
        self.scopes.append(_Scope(frozenset()))
        yield
        scope = self.scopes.pop()
        self.line(header)
        self.scopes[-1].lines.extend(f"    {inner}" for inner in scope.lines)

    def forget(self, *axes: str) -> None:
        """Removes coordinates that ended with their loop."""
        for name in axes:
            self.masks.pop(name, None)

    def _home(self, axes: frozenset[str]) -> _Scope:
        for scope in reversed(self.scopes):
            if scope.axes & axes:
                return scope
        return self.scopes[0]

    @contextmanager
    def at_home(self, axes: frozenset[str]) -> Iterator[None]:
        """Writes lines where values along these axes belong, before the loops inside of it."""
        position = next(k for k, scope in enumerate(self.scopes) if scope is self._home(axes))
        inner = self.scopes[position + 1 :]
        del self.scopes[position + 1 :]
        yield
        self.scopes += inner

    def bind(self, wanted: str, source: str, axes: frozenset[str], dtype: str) -> Var:
        """``name = source`` in the outermost scope that has all axes."""
        name = self.fresh(wanted)
        self._home(axes).lines.append(f"{name} = {source}")
        return Var(name, axes, dtype)

    def remembered(self, key: tuple[str, Coordinates, tuple[str, ...]]) -> Var | None:
        for scope in reversed(self.scopes):
            if key in scope.memory:
                return scope.memory[key]
        return None

    def remember(self, key: tuple[str, Coordinates, tuple[str, ...]], value: Var) -> None:
        axes = value.axes
        for mask in key[2]:
            axes |= self.depends[mask]
        self._home(axes).memory[key] = value

    # -- sizes and index arithmetic

    def axes_of(self, expr: Expr) -> frozenset[str]:
        """The axes that an expression varies along."""
        return frozenset().union(*(self.depends.get(name, frozenset()) for name in expr.names()))

    def size(self, expr: Expr, *, constant: bool = False) -> str:
        """The kernel's parameter for a size expression; ``constant`` makes it a constexpr."""
        if expr.value is not None:
            return str(expr.value)
        source = text(expr)
        plain = re.sub(r"\s*\*\s*", "_", source)
        for sign, word in ((" // ", "_by_"), (" + ", "_plus_"), (" - ", "_minus_")):
            plain = plain.replace(sign, word)
        name = self._sizes.get(source) or self._size_name(re.sub(r"\W+", "", plain))
        self._sizes[source] = name
        if constant or name in self.parameters.constants:
            self.parameters.sizes.pop(name, None)
            self.parameters.constants[name] = source
        else:
            self.parameters.sizes[name] = source
        return name

    def _size_name(self, wanted: str) -> str:
        while wanted in self._taken or wanted in _BUILTINS:
            wanted = f"{wanted}_size"
        self._taken.add(wanted)
        return wanted

    def index(self, expr: Expr) -> str:
        """Device source of index arithmetic: sizes become parameters, divisors constexpr parameters."""
        coordinates = frozenset(self.depends)
        parts: list[str] = []
        for atoms, factor in coefficients(expr, coordinates).items():
            factors = [self._atom(atom) for atom in atoms]
            value = factor.value
            if not atoms:
                parts.append(self.size(factor) if value is None or value >= 0 else f"- {-value}")
                continue
            if value == -1:
                factors[0] = f"-{factors[0]}"
            elif value != 1:
                factors.append(self.size(factor))
            parts.append(" * ".join(factors))
        joined = " + ".join(parts) if parts else "0"
        return joined.replace("+ -", "- ").replace("-  ", "- ")

    def _atom(self, atom: str | Quotient | Remainder) -> str:
        if isinstance(atom, str):
            return atom
        sign = "//" if isinstance(atom, Quotient) else "%"
        inner = self.index(atom.numerator)
        inner = inner if inner.isidentifier() else f"({inner})"
        return f"({inner} {sign} {self.size(atom.denominator, constant=True)})"

    def mask_of(self, axes: frozenset[str], valid: Sequence[str] = ()) -> str:
        """The condition under which an access along these axes is in range, "" where it always is."""
        return " & ".join([self.masks[a] for a in self.masks if a in axes] + list(valid))

    def tile_shape(self) -> str:
        """The tile's shape as source."""
        return "[" + ", ".join(block for _, block in self.tile) + "]"

    # -- parameters

    def pointer(self, node: str) -> str:
        """The parameter that points to a node in memory."""
        for name, held in self.parameters.pointers.items():
            if held == node:
                return name
        name = self.fresh(f"{node.replace('.', '_')}_ptr")
        self.parameters.pointers[name] = node
        return name

    def constant(self, wanted: str, source: str) -> str:
        """A constexpr parameter with this host source."""
        for name, held in self.parameters.constants.items():
            if held == source:
                return name
        name = self.fresh(wanted)
        self.parameters.constants[name] = source
        return name
