"""Registered classes by name: policies, platforms, suites, writers, stores.

In: a kind and a name. Out: the class. Left to others: what it is built with (each kind's contract says so).

Every kind is an entry-point group `kernelevolve.KIND`; built-ins are registered in our own pyproject.toml and enter by
the same door as a stranger's package. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args

from kernelevolve.errors import UnknownName, UsageError

Kind = Literal["policies", "platforms", "suites", "writers", "stores"]
_SINGULAR = {"policies": "policy", "platforms": "platform", "suites": "suite", "writers": "writer", "stores": "store"}


def names(kind: Kind) -> tuple[str, ...]:
    """The registered names of a kind, sorted."""
    return tuple(sorted({point.name for point in _points(kind)}))


def load(kind: Kind, name: str) -> Any:
    """What is registered under `name`: a class, or whatever the kind's contract says.

    Raises:
        UnknownName: nobody registered the name; the message lists the known ones.
        UsageError: two packages registered it, or the plugin cannot be imported; the message names the package.
    """
    found = {point.value: point for point in _points(kind) if point.name == name}
    if not found:
        raise UnknownName(_SINGULAR[kind], name, names(kind))
    if len(found) > 1:
        owners = " and ".join(sorted(_package(point) for point in found.values()))
        raise UsageError(f"{_SINGULAR[kind]} {name!r} is registered by {owners}; uninstall one of them")
    point = next(iter(found.values()))
    try:
        return point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(
            f"{_SINGULAR[kind]} {name!r} of package {_package(point)} cannot be imported ({point.value}): {error}; "
            "repair or uninstall that package"
        ) from error


def named(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME[:parameter=value,...]` as the name and its parameters.

    Raises:
        UsageError: a parameter without a value, or given twice.
    """
    name, _, rest = text.partition(":")
    args: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        parameter, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or parameter in args:
            raise UsageError(f"{text!r}: {part!r} is not parameter=value, or comes twice")
        args[parameter] = value_of(value)
    return name, args


def value_of(text: str) -> bool | int | float | str:
    """What a parameter's text stands for."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def owner(kind: Kind, name: str) -> str:
    """The package that registered `name`, with its version; empty where nobody did."""
    return next((_package(point) for point in _points(kind) if point.name == name), "")


def _points(kind: Kind) -> tuple[EntryPoint, ...]:
    if kind not in get_args(Kind):
        raise UnknownName("plugin kind", kind, get_args(Kind))
    return tuple(entry_points(group=f"kernelevolve.{kind}"))


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"
