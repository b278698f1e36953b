"""The captured tensor program: what the reference computes, as data.

In: nothing but values. Out: `Program` and its parts, frozen, and their JSON. The ops are core ATen ops with their
arguments; every integer that follows a size is an expression over named sizes, so the program is right for other sizes
of the same problem. Lowering, planning and writing source are left to the rest of the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import Expr, canonical, const, parse, product

#: Names of kernels' coordinates and of what they are computed from; no size has one of these names.
COORDINATES = frozenset({
    "element", "program", "row", "column", "outer", "part", "block_of", "m", "n", "k_of_a", "k_of_b", "line",
    "position", "batch", "begin", "end", "steps", "per_part", "start", "total", "carry", "running", "group",
    "first_row", "group_rows", "row_tile", "column_tile", "row_tiles", "column_tiles", "in_range", "row_in_range",
    "column_in_range", "m_in_range", "n_in_range", "k_of_a_in_range", "k_of_b_in_range",
})  # fmt: skip

#: Bytes of one element.
ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """A value of the program by its name."""

    name: str


@dataclass(frozen=True)
class Number:
    """A float that follows a size: ``source`` is host Python over size names, ``hint`` its value at full size."""

    source: str
    hint: float


@dataclass(frozen=True)
class Dtype:
    """A dtype argument, by torch's name without the ``torch.``."""

    name: str


#: An argument of an op: reference, size expression, number, dtype, constant, or a tuple of these.
Argument = Any


@dataclass(frozen=True)
class Size:
    """A named size.

    Attributes:
        name: a Python identifier.
        source: the host expression that reads it in ``forward``, such as ``x.shape[0]``.
        values: its value at full size, then in each perturbed variant that the capture tried.
    """

    name: str
    source: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """Shape and dtype of one tensor."""

    shape: tuple[Expr, ...]
    dtype: str

    def numel(self) -> Expr:
        """The number of elements."""
        return product(self.shape)


@dataclass(frozen=True)
class Tensor:
    """A tensor that the op receives.

    Attributes:
        name: what ops refer to.
        path: the host expression in ``forward``, such as ``x`` or ``self.linear.weight``.
        role: ``input``, ``parameter`` or ``buffer``.
        value: shape and dtype.
        strides: elements between neighbours along each dimension; None for a contiguous tensor.
    """

    name: str
    path: str
    role: str
    value: Value
    strides: tuple[Expr, ...] | None = None


@dataclass(frozen=True)
class Op:
    """One ATen call.

    Attributes:
        name: the name of its result.
        op: full name, such as ``aten.relu.default``.
        args, kwargs: the arguments, tensors as `Ref`.
        values: the results, one unless the op returns a tuple; None where a tuple's element is not a tensor.
        line: the reference's source line.
    """

    name: str
    op: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]
    values: tuple[Value | None, ...]
    line: str = ""

    def refs(self) -> Iterator[str]:
        """The names of the values it reads."""
        yield from _refs((self.args, tuple(v for _, v in self.kwargs)))


def _refs(argument: Argument) -> Iterator[str]:
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, tuple | list):
        for part in argument:
            yield from _refs(part)


@dataclass(frozen=True)
class Program:
    """A captured reference.

    Attributes:
        class_name: the reference's class.
        sizes: named sizes in the order in which ``forward`` can read them.
        tensors: inputs in order, then parameters and buffers that are used.
        ops: in execution order.
        outputs: the result's structure: `Ref`, None, a number, or ``("tuple" | "list", ...)`` or
            ``("dict", (key, part)...)``.
        mutations: pairs of a tensor's name and the value that is written into it at the end.
        notes: what stayed fixed at the captured sizes, in sentences.
    """

    class_name: str
    sizes: tuple[Size, ...]
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    outputs: Argument
    mutations: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def at_full_size(self) -> dict[str, int]:
        """Size name → value at the captured size."""
        return {size.name: size.values[0] for size in self.sizes}

    def to_json(self) -> str:
        """The program as JSON text."""
        return json.dumps(_encode(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Program:
        """Reads what `to_json` wrote.

        Raises:
            TranslateError: the text is not a program.
        """
        decoded = _decode(json.loads(text))
        if not isinstance(decoded, Program):
            raise TranslateError(f"expected a program, found {type(decoded).__name__}: capture the reference again")
        return decoded


_CLASSES: dict[str, type] = {cls.__name__: cls for cls in (Ref, Number, Dtype, Size, Value, Tensor, Op, Program)}


def _encode(thing: Any) -> Any:
    if isinstance(thing, Expr):
        return {"expr": canonical(thing)}
    if isinstance(thing, tuple | list):
        return [_encode(part) for part in thing]
    if (isinstance(thing, float) and thing in (float("inf"), float("-inf"))) or thing != thing:
        return {"float": repr(thing)}
    if type(thing).__name__ in _CLASSES:
        return {type(thing).__name__: {k: _encode(v) for k, v in vars(thing).items()}}
    return thing


def _decode(thing: Any) -> Any:
    if isinstance(thing, list):
        return tuple(_decode(part) for part in thing)
    if isinstance(thing, dict):
        ((kind, content),) = thing.items()
        if kind == "expr":
            return parse(content)
        if kind == "float":
            return float(content)
        return _CLASSES[kind](**{k: _decode(v) for k, v in content.items()})
    return thing


def as_expr(argument: Argument) -> Expr:
    """An integer argument as an expression.

    Raises:
        TranslateError: the argument is no integer.
    """
    if isinstance(argument, Expr):
        return argument
    if isinstance(argument, int):
        return const(argument)
    raise TranslateError(f"expected an integer or a size, found {argument!r}")
