"""Frozen values to JSON and back, by their type hints.

In: dataclasses made of None, bool, int, float, str, enums, tuples, lists, mappings with str keys, and each other.
Out: plain JSON data; `from_data` is strict: unknown or missing fields and wrong types raise `ValueError`.
Left to others: versions and meaning. NaN and infinities travel as the strings "nan", "inf", "-inf" so that the text is
standard JSON. Bytes never travel in JSON; they are blobs (`store`) or attachments (`wire`).

What a type hint means is worked out once per class: a long log is a million values of a few dozen classes.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Callable[[Any], Any]
_ODD_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def to_data(value: Any) -> Any:
    """JSON data for `value`; raises `TypeError` with the type it cannot write."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_data(getattr(value, name)) for name in _names(type(value))}
    if isinstance(value, Mapping):
        return {str(k): to_data(v) for k, v in value.items()}
    if isinstance(value, (Sequence, frozenset, set)):
        return [to_data(v) for v in value]
    raise TypeError(f"cannot write {type(value).__name__} as JSON data")


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def from_data(kind: type[T], data: Any) -> T:
    """The value of type `kind` that `to_data` wrote; raises `ValueError` naming the field that does not fit."""
    try:
        return typing.cast(T, _reader(kind)(data))
    except _Misfit as misfit:
        raise ValueError(f"{getattr(kind, '__name__', kind)}{misfit}") from None


def dumps(value: Any) -> str:
    """One line of standard JSON with sorted keys: equal values give equal text."""
    return json.dumps(to_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def loads(kind: type[T], text: str) -> T:
    """The value of type `kind` in `text`."""
    return from_data(kind, json.loads(text))


class _Misfit(ValueError):
    """Data that a reader refused; the way to it is put together on the way out, so that reading well costs nothing."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.way = ""

    def under(self, step: str) -> _Misfit:
        self.way = step + self.way
        return self

    def __str__(self) -> str:
        return f"{self.way}: {self.args[0]}"


def _misfit(kind: Any, data: Any) -> _Misfit:
    return _Misfit(f"expected {getattr(kind, '__name__', kind)}, got {data!r:.80}")


def _reader(kind: Any) -> Reader:
    """What reads a value of type `kind`.

    Not cached by `kind`: unions of the same types in another order are equal, and read numbers differently.
    """
    origin, kinds = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda data: data
    if origin in (typing.Union, types.UnionType):
        return _union(kinds)
    if origin is typing.Literal:
        return _literal(kind, kinds)
    if origin is tuple and not (len(kinds) == 2 and kinds[1] is Ellipsis):
        return _fixed_tuple(kinds)
    if origin in (tuple, list, frozenset):
        return _sequence(origin, kinds[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(kind, kinds[1])
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast(type, kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enum(kind)
    return _SCALARS.get(kind) or _no_reader(kind)


def _no_reader(kind: Any) -> Reader:
    def read(data: Any) -> Any:
        raise _misfit(kind, data)

    return read


def _float(data: Any) -> float:
    if type(data) is float:
        return data
    if isinstance(data, str) and data in _ODD_FLOATS:
        return _ODD_FLOATS[data]
    if isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    raise _misfit(float, data)


def _int(data: Any) -> int:
    if isinstance(data, int) and not isinstance(data, bool):
        return data
    raise _misfit(int, data)


def _bool(data: Any) -> bool:
    if isinstance(data, bool):
        return data
    raise _misfit(bool, data)


def _str(data: Any) -> str:
    if isinstance(data, str):
        return data
    raise _misfit(str, data)


def _none(data: Any) -> None:
    if data is not None:
        raise _misfit(type(None), data)


_SCALARS: Mapping[Any, Reader] = {float: _float, int: _int, bool: _bool, str: _str, None: _none, type(None): _none}


def _union(kinds: tuple[Any, ...]) -> Reader:
    readers = tuple(_reader(kind) for kind in kinds if kind is not type(None))
    optional = len(readers) < len(kinds)
    names = " | ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)

    def read(data: Any) -> Any:
        if data is None and optional:
            return None
        for reader in readers:
            try:
                return reader(data)
            except ValueError:
                continue
        raise _misfit(names, data)

    return read


def _literal(kind: Any, values: tuple[Any, ...]) -> Reader:
    def read(data: Any) -> Any:
        if data in values:
            return data
        raise _misfit(kind, data)

    return read


def _sequence(origin: Any, kind: Any) -> Reader:
    reader = _reader(kind)

    def read(data: Any) -> Any:
        if not isinstance(data, list):
            raise _misfit(origin, data)
        try:
            return origin([reader(value) for value in data])
        except _Misfit:
            _locate([reader] * len(data), data)
            raise

    return read


def _fixed_tuple(kinds: tuple[Any, ...]) -> Reader:
    readers = tuple(_reader(kind) for kind in kinds)

    def read(data: Any) -> Any:
        if not isinstance(data, list):
            raise _misfit(tuple, data)
        if len(data) != len(readers):
            raise _misfit(f"{len(readers)} values", data)
        try:
            return tuple([reader(value) for reader, value in zip(readers, data, strict=True)])
        except _Misfit:
            _locate(readers, data)
            raise

    return read


def _locate(readers: Sequence[Reader], data: list[Any]) -> None:
    """Raises what the first reader that refuses its value raises, with the value's place."""
    for i, (reader, value) in enumerate(zip(readers, data, strict=True)):
        try:
            reader(value)
        except _Misfit as misfit:
            raise misfit.under(f"[{i}]") from None


def _mapping(kind: Any, inner: Any) -> Reader:
    reader = None if inner is Any else _reader(inner)

    def read(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _misfit(kind, data)
        if reader is None:
            return dict(data)
        values, key = {}, ""
        try:
            for key, value in data.items():
                values[key] = reader(value)
        except _Misfit as misfit:
            raise misfit.under(f"[{key!r}]") from None
        return values

    return read


def _enum(kind: type[enum.Enum]) -> Reader:
    members = {member.value: member for member in kind}

    def read(data: Any) -> Any:
        try:
            return members[data]
        except (KeyError, TypeError):
            raise _misfit(kind, data) from None

    return read


@functools.cache
def _fields(kind: type) -> Mapping[str, Reader]:
    hints = typing.get_type_hints(kind)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}


def _dataclass(kind: type) -> Reader:
    def read(data: Any) -> Any:
        # Looked up when there is data, so that a class may contain itself.
        readers = _fields(kind)
        if not isinstance(data, dict):
            raise _misfit(kind, data)
        if not data.keys() <= readers.keys():
            raise _Misfit(f"unknown field {min(data.keys() - readers.keys())!r}; known: {', '.join(readers)}")
        values, name = {}, ""
        try:
            for name, value in data.items():
                values[name] = readers[name](value)
        except _Misfit as misfit:
            raise misfit.under(f".{name}") from None
        try:
            return kind(**values)
        except TypeError as error:
            raise _Misfit(str(error)) from None

    return read
