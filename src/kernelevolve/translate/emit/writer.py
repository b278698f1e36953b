"""Writes the values of one Triton kernel.

In: reads of algebra nodes at coordinates. Out: lines of Triton in the kernel's `body`, which names and places them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kernelevolve.translate.algebra import Condition, Node, is_float
from kernelevolve.translate.emit.body import Body, Var, computed
from kernelevolve.translate.emit.functions import TRITON, function, literal
from kernelevolve.translate.emit.reader import Coordinates
from kernelevolve.translate.expr import Expr, symbol, text
from kernelevolve.translate.ir import Number


class Writer(Body):
    """Reads of one graph, written as Triton; made as its `Body` is."""

    # -- the reader's hooks

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
        return self.constant(attribute.group(1) if attribute else f"{node}_factor", source)

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
        levels = self.constant("levels", f"({text(count)}).bit_length()")
        names = (self.fresh(wanted) for wanted in (node.name, "level", "probe", "inside"))
        found, level, probe, inside = names
        spread = "".join(f" + 0 * {axis}" for axis in sorted(axes - value.axes) if not axis.startswith("scalar "))
        with self.at_home(axes):
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


#: Functions that are many times faster where the second argument is known when the kernel is compiled.
_DIVISIONS = frozenset(("remainder", "fmod", "floordiv", "truncdiv"))
