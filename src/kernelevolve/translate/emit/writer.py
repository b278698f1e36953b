"""Writes the body of one Triton kernel.

In: reads of algebra nodes at coordinates. Out: lines of Triton, and the parameters that the launch must pass. A value
is written in the outermost scope (before or inside a loop) in which all that it depends on exists, and once per scope.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from kernelevolve.translate.algebra import Condition, Graph, Node, is_float
from kernelevolve.translate.emit.functions import COMPUTE, TRITON, function, literal
from kernelevolve.translate.emit.reader import Coordinates, Reader
from kernelevolve.translate.expr import Expr, Quotient, Remainder, coefficients, symbol, text
from kernelevolve.translate.ir import COORDINATES, Number


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


class Writer(Reader[Var]):
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

    # -- the reader's hooks

    def mask_of(self, axes: frozenset[str], valid: Sequence[str] = ()) -> str:
        """The condition under which an access along these axes is in range, "" where it always is."""
        return " & ".join([self.masks[a] for a in self.masks if a in axes] + list(valid))

    def load(self, node: Node, offset: Expr, valid: tuple[str, ...]) -> Var:
        pointer = self.pointer(node.name)
        axes = self.axes_of(offset)
        place = self.index(offset)
        for mask in valid:
            for axis in sorted(self.depends[mask] - axes):
                if not axis.startswith("scalar "):
                    place += f" + 0 * {axis}"
            axes |= self.depends[mask]
        mask = self.mask_of(axes, valid)
        zero = "0.0" if is_float(node.dtype) else "0"
        where = f", mask={mask}, other={zero}" if mask else ""
        place = pointer if place == "0" else f"{pointer} + {place}"
        widen = f".to({TRITON[computed(node.dtype)]})" if computed(node.dtype) != node.dtype else ""
        return self.bind(node.name, f"tl.load({place}{where}){widen}", axes, computed(node.dtype))

    def pointer(self, node: str) -> str:
        """The parameter that points to a node in memory."""
        for name, held in self.parameters.pointers.items():
            if held == node:
                return name
        name = self.fresh(f"{node.replace('.', '_')}_ptr")
        self.parameters.pointers[name] = node
        return name

    def number(self, node: Node) -> Var:
        if isinstance(node.value, Number):
            return Var(self._factor(node.name, node.value.source), frozenset(), computed(node.dtype), literal=True)
        if isinstance(node.value, Expr):
            divides = any(node.name == other.args[-1] and other.fn in _DIVISIONS for other in self.graph.nodes.values()
                          if other.kind == "map")  # fmt: skip
            return Var(self.size(node.value, constant=divides), frozenset(), node.dtype, literal=True)
        return Var(literal(node.value, node.dtype), frozenset(), computed(node.dtype), literal=True)

    def _factor(self, node: str, source: str) -> str:
        """The constexpr parameter for a number of the host; an attribute keeps its name."""
        attribute = re.fullmatch(r"self(?:\.\w+)*\.([a-zA-Z_]\w*)", source)
        return self._constant(attribute.group(1) if attribute else f"{node}_factor", source)

    def position(self, node: Node, expr: Expr) -> Var:
        axes = self.axes_of(expr)
        value = self.bind(node.name, self.index(expr), axes, "int32")
        return value if axes else self.typed(Var(self.index(expr), axes, "int32", literal=True))

    def typed(self, value: Var) -> Var:
        """A literal as a value with a type."""
        if not value.literal:
            return value
        return Var(f"tl.full((), {value.text}, {TRITON[value.dtype]})", value.axes, value.dtype)

    def cast(self, value: Var, dtype: str) -> Var:
        """The value in another dtype of the kernel."""
        if value.literal or value.dtype == dtype:
            return value
        if dtype == "bool":
            return Var(f"({value.text} != 0)", value.axes, dtype)
        return Var(f"{value.text}.to({TRITON[dtype]})", value.axes, dtype)

    def apply(self, node: Node, args: list[Var]) -> Var:
        if node.fn == "cast":
            return self._cast(node, args[0])
        compute = computed(node.compute)
        if node.fn == "where":
            parts = [self.cast(a, compute) for a in args[1:]]
            if all(p.literal for p in parts):
                parts[0] = self.typed(Var(parts[0].text, frozenset(), compute, literal=True))
            args = [self.cast(self.typed(args[0]), "bool"), *parts]
        else:
            if compute == "bool" and node.fn in ("lt", "le", "gt", "ge"):
                compute = "int32"
            args = [self.cast(a, compute) for a in args]
            if all(a.literal for a in args):
                args[0] = self.typed(Var(args[0].text, frozenset(), compute, literal=True))
        axes = frozenset().union(*(a.axes for a in args))

        def let(wanted: str, source: str) -> str:
            return self.bind(wanted, source, axes, compute).text

        source = function(node.fn, [self._operand(a) for a in args], compute, let)
        if "libdevice." in source:
            self.uses.add("libdevice")
        return self.bind(node.name, source, axes, computed(node.dtype))

    def _operand(self, value: Var) -> str:
        return f"({value.text})" if value.literal and value.text.startswith("-") else value.text

    def _cast(self, node: Node, value: Var) -> Var:
        value = self.typed(value)
        target = computed(node.dtype)
        if node.dtype != target and value.dtype != "bool":
            rounded = f"{value.text}.to({TRITON[node.dtype]}).to({TRITON[target]})"
            source = self.graph.nodes[node.args[0]].dtype
            if source == node.dtype:
                return value
            return self.bind(node.name, rounded, value.axes, target)
        if value.dtype == target:
            return value
        made = self.cast(value, target)
        return self.bind(node.name, made.text, made.axes, target)

    def inside(self, conditions: Sequence[Condition]) -> str:
        parts: list[str] = []
        axes: frozenset[str] = frozenset()
        for condition in conditions:
            place = self.index(condition.coordinate)
            place = place if place.isidentifier() else f"({place})"
            axes |= self.axes_of(condition.coordinate)
            if condition.lower is not None:
                parts.append(f"({place} >= {self.size(condition.lower)})")
            if condition.upper is not None:
                parts.append(f"({place} < {self.size(condition.upper)})")
        made = self.bind("inside", " & ".join(parts), axes, "bool")
        self.depends[made.text] = axes
        return made.text

    def choose(self, condition: str, yes: Var, fill: float, node: Node) -> Var:
        dtype = computed(node.dtype)
        value = float(fill) if is_float(dtype) else bool(fill) if dtype == "bool" else int(fill)
        return self._where(condition, yes, Var(literal(value, dtype), frozenset(), dtype, literal=True), node)

    def either(self, condition: str, yes: Var, no: Var, node: Node) -> Var:
        return self._where(condition, yes, no, node)

    def _where(self, condition: str, yes: Var, no: Var, node: Node) -> Var:
        dtype = computed(node.dtype)
        parts = [self.cast(yes, dtype), self.cast(no, dtype)]
        if all(p.literal for p in parts):
            parts[0] = self.typed(Var(parts[0].text, frozenset(), dtype, literal=True))
        axes = self.depends[condition] | yes.axes | no.axes
        return self.bind(node.name, f"tl.where({condition}, {parts[0].text}, {parts[1].text})", axes, dtype)

    def name_index(self, value: Var, valid: tuple[str, ...]) -> str:
        value = self.typed(value)
        if not value.text.isidentifier() or value.literal:
            value = self.bind("index", value.text, value.axes, value.dtype)
        self.depends[value.text] = value.axes
        return value.text

    def search(self, node: Node, value: Var, row: Coordinates, valid: tuple[str, ...]) -> Var:
        """A binary search without branches: the count is found bit by bit, the highest first."""
        borders = self.graph.nodes[node.args[1]]
        compute = computed(node.compute)
        value = self.cast(self.typed(value), compute)
        count = borders.shape[-1]
        axes = value.axes.union(*(self.axes_of(expr) for expr in row), *(self.depends[mask] for mask in valid))
        levels = self._constant("levels", f"({text(count)}).bit_length()")
        names = (self.fresh(wanted) for wanted in (node.name, "level", "probe", "inside"))
        found, level, probe, inside = names
        spread = "".join(f" + 0 * {axis}" for axis in sorted(axes - value.axes) if not axis.startswith("scalar "))
        with self._at_home(axes):
            self.line(f"{found} = tl.where({value.text} == {value.text}, 0, 0){spread}")
            with self.loop(f"for {level} in tl.static_range({levels}):"):
                self.line(f"{probe} = {found} + ((1 << {levels}) >> ({level} + 1)) - 1")
                self.line(f"{inside} = {probe} < {self.size(count)}")
                self.depends[probe] = self.depends[inside] = axes | {probe}
                self.scopes[-1].axes |= {probe}
                border = self.cast(self.read(borders.name, (*row, symbol(probe)), (*valid, inside)), compute)
                beyond = f"({border.text} {'>' if node.fn == 'right' else '>='} {value.text})"
                self.line(f"{found} = tl.where({inside} & ({beyond} == 0), {probe} + 1, {found})")
        return Var(found, axes, node.dtype)

    @contextmanager
    def _at_home(self, axes: frozenset[str]) -> Iterator[None]:
        """Writes lines where values along these axes belong, before the loops inside of it."""
        position = next(k for k, scope in enumerate(self.scopes) if scope is self._home(axes))
        inner = self.scopes[position + 1 :]
        del self.scopes[position + 1 :]
        yield
        self.scopes += inner

    def _constant(self, wanted: str, source: str) -> str:
        """A constexpr parameter with this host source."""
        for name, held in self.parameters.constants.items():
            if held == source:
                return name
        name = self.fresh(wanted)
        self.parameters.constants[name] = source
        return name

    # -- stores

    def store(self, node: str, offset: Expr, value: Var) -> None:
        """Writes a value to a node's memory, in the innermost scope."""
        axes = self.axes_of(offset)
        place = self.index(offset)
        for axis in sorted(value.axes - axes):  # a dimension of size 1: one lane of the tile is in range
            if not axis.startswith("scalar "):
                place += f" + 0 * {axis}"
        axes |= value.axes
        mask = self.mask_of(axes)
        where = f", mask={mask}" if mask else ""
        pointer = self.pointer(node)
        place = pointer if place == "0" else f"{pointer} + {place}"
        self.line(f"tl.store({place}, {value.text}{where})")

    def full(self, value: Var) -> str:
        """A value broadcast to the whole tile."""
        value = self.typed(value)
        if value.axes >= {axis for axis, _ in self.tile}:
            return value.text
        return f"tl.broadcast_to({value.text}, {self.tile_shape()})"

    def tile_shape(self) -> str:
        """The tile's shape as source."""
        return "[" + ", ".join(block for _, block in self.tile) + "]"


#: Functions that are many times faster where the second argument is known when the kernel is compiled.
_DIVISIONS = frozenset(("remainder", "fmod", "floordiv", "truncdiv"))

_BUILTINS = {
    "sum", "max", "min", "abs", "range", "len", "pow", "any", "all", "round", "float", "int", "bool", "print",
    "map", "filter", "index", "input", "iter", "next", "slice", "sorted", "tuple", "type", "vars", "zip", "hash", "id",
    "torch", "knob", "nn",
}  # fmt: skip
