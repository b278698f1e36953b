"""Frozen values to JSON and back, by their type hints.

In: dataclasses made of None, bool, int, float, str, enums, tuples, lists, mappings with str keys, and each other.
Out: plain JSON data; `from_data` is strict: unknown or missing fields and wrong types raise `ValueError`.
Left to others: versions and meaning. NaN and infinities travel as the strings "nan", "inf", "-inf" so that the text is
standard JSON. Bytes never travel in JSON; they are blobs (`store`) or attachments (`wire`).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_ODD_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def to_data(value: Any) -> Any:
    """JSON data for `value`; raises `TypeError` with the type it cannot write."""
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_data(v) for k, v in value.items()}
    if isinstance(value, (Sequence, frozenset, set)):
        return [to_data(v) for v in value]
    raise TypeError(f"cannot write {type(value).__name__} as JSON data")


def from_data(kind: type[T], data: Any) -> T:
    """The value of type `kind` that `to_data` wrote; raises `ValueError` naming the field that does not fit."""
    return typing.cast(T, _read(kind, data, getattr(kind, "__name__", str(kind))))


def dumps(value: Any) -> str:
    """One line of standard JSON with sorted keys: equal values give equal text."""
    return json.dumps(to_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def loads(kind: type[T], text: str) -> T:
    """The value of type `kind` in `text`."""
    return from_data(kind, json.loads(text))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fail(where: str, kind: Any, data: Any) -> ValueError:
    return ValueError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {data!r:.80}")


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(kind), data, where)
    if origin is typing.Literal:
        if data in typing.get_args(kind):
            return data
        raise _fail(where, kind, data)
    if origin in (tuple, list, frozenset):
        return _read_sequence(origin, typing.get_args(kind), data, where)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise _fail(where, kind, data)
        inner = typing.get_args(kind)[1]
        return {k: _read(inner, v, f"{where}[{k!r}]") for k, v in data.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(typing.cast(type, kind), data, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(data)
        except ValueError:
            raise _fail(where, kind, data) from None
    return _read_scalar(kind, data, where)


def _read_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float:
        if isinstance(data, str) and data in _ODD_FLOATS:
            return _ODD_FLOATS[data]
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return float(data)
    elif kind is int:
        if isinstance(data, int) and not isinstance(data, bool):
            return data
    elif (kind in (bool, str) and isinstance(data, kind)) or (kind in (None, type(None)) and data is None):
        return data
    raise _fail(where, kind, data)


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _read(kind, data, where)
            except ValueError:
                continue
    raise _fail(where, " | ".join(getattr(k, "__name__", str(k)) for k in kinds), data)


def _read_sequence(origin: Any, kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if not isinstance(data, list):
        raise _fail(where, origin, data)
    if origin is tuple and not (len(kinds) == 2 and kinds[1] is Ellipsis):
        if len(data) != len(kinds):
            raise _fail(where, f"{len(kinds)} values", data)
        return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, data, strict=True)))
    return origin(_read(kinds[0], v, f"{where}[{i}]") for i, v in enumerate(data))


def _read_dataclass(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _fail(where, kind, data)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(fields)}")
    hints = _hints(kind)
    values = {name: _read(hints[name], v, f"{where}.{name}") for name, v in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
