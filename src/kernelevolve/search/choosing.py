"""Which policy a run has, by name and parameters, and asking it without trusting it.

In: `NAME[:parameter=value,...]`, or a Component out of a log; a graph. Out: a Component, a policy, parents. Left to
others: what policies there are (`plugins`), what they choose.

A policy may be a stranger's: whatever it raises, returns or changes is told with its name and its package, before
anything is logged, so that the run can be resumed once it is repaired.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping
from typing import Any

from kernelevolve import plugins
from kernelevolve.errors import KernelEvolveError, PluginFault, UnknownName, UsageError
from kernelevolve.events import Component
from kernelevolve.graph import Graph
from kernelevolve.search import Policy
from kernelevolve.settings import Settings

DEFAULT = "greedy"
#: A graph is compared in depth around each of the first asks, and later around one in so many that it costs nothing.
ALWAYS_COMPARED = 32


def policy_named(text: str, settings: Settings | None = None) -> Component:
    """The policy of `NAME[:parameter=value,...]`, such as `mcts:children=3,exploration=0.5`, with all its parameters.

    Args:
        settings: gives the number of drafts where the policy has such a parameter and `text` does not say it.

    Raises:
        UnknownName: nobody registered the policy, or it has no such parameter; the message lists the known ones.
        UsageError: a parameter without a value or given twice, or a value that the policy refuses.
    """
    name, _, rest = text.partition(":")
    known = parameters(name)
    args: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        parameter, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or parameter in args:
            raise UsageError(f"policy {text!r}: {part!r} is not parameter=value, or comes twice; parameters of {name}: "
                             f"{_told(known)}")  # fmt: skip
        args[parameter] = plugins.value_of(value)
        if parameter in known and not _fits(args[parameter], known[parameter]):
            kind = type(known[parameter]).__name__
            raise UsageError(f"policy {text!r}: {parameter} is of type {kind} ({known[parameter]}), got {value!r}")
    if settings is not None and "drafts" in known:
        args.setdefault("drafts", settings.drafts)
    made = Component(name, {**known, **args})
    build(made)
    return made


def parameters(name: str) -> Mapping[str, Any]:
    """The parameters of a registered policy whose default a log can hold, with it.

    Raises:
        UnknownName: nobody registered the policy.
    """
    return {p.name: p.default for p in _taken(name).values() if isinstance(p.default, (bool, int, float, str))}


def _taken(name: str) -> Mapping[str, inspect.Parameter]:
    cls = plugins.load("policies", name)
    try:
        return inspect.signature(cls).parameters
    except (TypeError, ValueError) as error:
        raise PluginFault(f"policy {_whose(name)} is registered as {cls!r:.80}, which is no class: {error}") from error


def build(component: Component) -> Policy:
    """The policy that `component` names.

    Raises:
        UnknownName: nobody registered the policy, or it has no such parameter.
        UsageError: it refuses a value.
        PluginFault: what is registered is no policy.
    """
    cls, takes = plugins.load("policies", component.name), _taken(component.name)
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for name in component.args:
        if name not in takes and not anything:
            raise UnknownName(f"parameter of policy {component.name}", name, takes)
    try:
        policy: Policy = cls(**component.args)
    except KernelEvolveError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"policy {component.name!r} cannot be built with {dict(component.args)}: {error}; its parameters: "
            f"{_told(parameters(component.name))}"
        ) from error
    except Exception as error:
        what = f"raised {type(error).__name__} when built: {error}"
        raise PluginFault(f"policy {_whose(component.name)} {what}") from error
    names = [getattr(reducer, "name", None) for reducer in getattr(policy, "reducers", (None,))]
    if not callable(getattr(policy, "select", None)) or None in names or len(set(names)) != len(names):
        raise PluginFault(
            f"policy {_whose(component.name)} is none: it needs `select(graph, rng)` and `reducers`, a tuple of "
            "reducers with a name each"
        )
    return policy


def select(policy: Policy, graph: Graph, rng: random.Random) -> tuple[str, ...]:
    """The parents that `policy` chooses, seen to be different nodes of an unchanged graph.

    Raises:
        PluginFault: the policy raised, gave no tuple of different nodes, or changed the graph.
    """
    deep = graph.asked < ALWAYS_COMPARED or graph.asked & (graph.asked - 1) == 0
    before = graph.witness(deep=deep)
    try:
        parents = policy.select(graph, rng)
    except Exception as error:
        raise _fault(graph, f"raised {type(error).__name__}: {error}") from error
    if not isinstance(parents, tuple) or not all(isinstance(parent, str) for parent in parents):
        raise _fault(graph, f"selected {parents!r:.200}; it must give a tuple of node ids, () for a fresh draft")
    if unknown := [parent for parent in parents if parent not in graph.nodes]:
        raise _fault(graph, f"selected {parents}, but {', '.join(unknown)} is no node of the graph")
    if len(set(parents)) != len(parents):
        raise _fault(graph, f"selected {parents}; parents are different nodes")
    if graph.witness(deep=deep) != before:
        raise _fault(graph, "changed the graph, or what a reducer keeps, in select; it may only read them")
    return parents


def _fault(graph: Graph, what: str) -> PluginFault:
    whose = _whose(graph.created.policy.name)
    return PluginFault(f"policy {whose} {what}; nothing was logged: repair the policy and resume the run")


def _whose(name: str) -> str:
    owner = plugins.owner("policies", name)
    return f"{name!r} of package {owner}" if owner else repr(name)


def _told(known: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in known.items()) or "none"


def _fits(value: Any, default: Any) -> bool:
    return default is None or type(value) is type(default) or (type(default) is float and type(value) is int)
