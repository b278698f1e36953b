"""A graph as plain data and back, so that a long run opens without folding its whole log.

In: a graph; or what was saved of one, and a shelf on its log. Out: JSON data in sections; or a graph that goes on as if
its log had been folded from the first event. Left to others: which data may be believed (`store.replay`), when to save.

What the log holds stays there: nodes are saved without sources and evaluations, in columns, pending briefs in full.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kernelevolve import codec
from kernelevolve.errors import PluginFault
from kernelevolve.evaluation import Evidence, Figure, Verdict
from kernelevolve.events import Created, Finished, Noted
from kernelevolve.graph import Graph, Pending, Reducer, Restorable
from kernelevolve.node import Shelf, shelved

#: Sections beside those of the reducers, which have the reducers' names.
RUN, NODES = "run", "nodes"
_SCALARS = (
    "asked", "written", "drafts", "drops_in_a_row", "best_at", "next", "climbed", "tokens", "money", "active", "wall",
    "device", "epoch", "last_drop",
)  # fmt: skip


def section_of(reducer: Reducer) -> str:
    """The name of a reducer's section."""
    return f"reducer {reducer.name}"


def save(graph: Graph) -> dict[str, str]:
    """The sections of `graph` by name, each as one line of JSON; those of reducers that are not restorable are missing.

    Raises:
        ValueError: the graph has no shelf, so that it does not know where in the log its nodes are.
        PluginFault: a reducer raised, or saved what is not JSON data.
    """
    if graph._shelf is None:
        raise ValueError("a graph without a shelf cannot be saved; fold it with a shelf on its log")
    sections = {RUN: _line(_run(graph)), NODES: _line(_nodes(graph))}
    for reducer in graph.reducers:
        if isinstance(reducer, Restorable):
            try:
                sections[section_of(reducer)] = _line(reducer.save(graph.reduced(reducer.name), graph))
            except Exception as error:
                raise PluginFault(
                    f"reducer {reducer.name!r} raised {type(error).__name__} when its state was saved: {error}; "
                    "the log is whole: repair the reducer's package and resume the run"
                ) from error
    return sections


def _line(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


def heading(sections: Mapping[str, str | bytes]) -> tuple[Mapping[str, Any], tuple[Noted, ...]]:
    """The settings in force and the notes when the graph was saved."""
    run = json.loads(sections[RUN])
    return run["settings"], codec.from_data(tuple[Noted, ...], run["notes"])


def restore(
    sections: Mapping[str, str | bytes], created: Created, reducers: Iterable[Reducer], shelf: Shelf
) -> Graph:
    """The graph that was saved, with its shelf on the same log.

    Raises:
        KeyError: a section is missing, e.g. that of a reducer that was not folded along.
        LookupError, TypeError, ValueError: what is in a section was not saved by this version.
    """
    graph, run = Graph(reducers, shelf), json.loads(sections[RUN])
    graph._created = created
    for name in _SCALARS:
        setattr(graph, f"_{name}", run[name])
    graph._settings = run["settings"]
    graph._notes = list(codec.from_data(tuple[Noted, ...], run["notes"]))
    graph._ending = codec.from_data(Finished, run["ending"]) if run["ending"] is not None else None
    graph._exhausted = {tuple(parents) for parents in run["exhausted"]}
    for data, at in run["pending"]:
        pending = codec.from_data(Pending, data)
        graph._pending[pending.brief.id] = pending
        if pending.candidate is not None:
            graph._written_at[pending.brief.id] = at
    _restore_nodes(graph, json.loads(sections[NODES]), shelf)
    nodes = tuple(graph._nodes.values())
    graph._best = nodes[run["best"]] if run["best"] is not None else None
    graph._furthest = nodes[run["furthest"]] if run["furthest"] is not None else None
    for reducer in graph.reducers:
        if not isinstance(reducer, Restorable):
            raise TypeError(f"reducer {reducer.name!r} is not restorable")
        graph._reduced[reducer.name] = reducer.restore(json.loads(sections[section_of(reducer)]), graph)
    return graph


def _run(graph: Graph) -> dict[str, Any]:
    return {
        **{name: getattr(graph, f"_{name}") for name in _SCALARS},
        "settings": codec.to_data(graph.settings),
        "notes": codec.to_data(graph.notes),
        "ending": codec.to_data(graph.ending),
        "exhausted": sorted(graph._exhausted),
        "pending": [[codec.to_data(p), graph._written_at.get(name)] for name, p in graph.pending.items()],
        "best": graph.best.index if graph.best is not None else None,
        "furthest": graph.furthest.index if graph.furthest is not None else None,
    }


def _nodes(graph: Graph) -> dict[str, Any]:
    """In columns of plain values: lists of each node's own take longer to read than all that is in them."""
    nodes, kinds = tuple(graph.nodes.values()), dict[tuple[str, str, str], int]()
    figures = [node.fitness for node in nodes]
    verdicts = {verdict: number for number, verdict in enumerate(Verdict)}
    above = [[graph.nodes[parent].index for parent in node.parents] for node in nodes]
    return {
        "id": [node.id for node in nodes],
        # -1 where there is none.
        "first": [indices[0] if indices else -1 for indices in above],
        "second": [indices[1] if len(indices) > 1 else -1 for indices in above],
        "others": [[index, indices[2:]] for index, indices in enumerate(above) if len(indices) > 2],
        "written": [node.places[0] for node in nodes],
        "evaluated": [node.places[1] for node in nodes],
        "verdict": [verdicts[node.verdict] for node in nodes],
        "verdicts": [verdict.value for verdict in verdicts],
        "repeats": [[node.index, node.duplicate_of] for node in nodes if node.duplicate_of],
        # Few ways to obtain a fitness, many values.
        "kind": [kinds.setdefault((f.unit, f.evidence.value, f.how), len(kinds)) for f in figures],
        "kinds": list(kinds),
        "value": [f.value for f in figures],
        "low": [f.low for f in figures],
        "high": [f.high for f in figures],
        "digests": graph._digests,
    }


def _restore_nodes(graph: Graph, data: Mapping[str, Any], shelf: Shelf) -> None:
    names, others, repeats = data["id"], dict(data["others"]), dict(data["repeats"])
    verdicts = [Verdict(value) for value in data["verdicts"]]
    kinds = [(unit, Evidence(evidence), how) for unit, evidence, how in data["kinds"]]
    columns = ("id", "first", "second", "written", "evaluated", "verdict", "kind", "value", "low", "high")
    rows = zip(*(data[column] for column in columns), strict=True)
    nodes, children = graph._nodes, graph._children
    graph._digests = data["digests"]
    for index, (name, first, second, written, evaluated, verdict, kind, value, low, high) in enumerate(rows):
        unit, evidence, how = kinds[kind]
        parents: tuple[str, ...] = ()
        if second >= 0:
            parents = (names[first], names[second], *(names[other] for other in others.get(index, ())))
        elif first >= 0:
            parents = (names[first],)
        fitness = Figure(value, unit, evidence, how, low, high)
        nodes[name] = shelved(
            shelf, written, evaluated, index=index, parents=parents, fitness=fitness,
            duplicate_of=repeats.get(index, ""), id=name, verdict=verdicts[verdict],
        )  # fmt: skip
        for parent in parents:
            children.setdefault(parent, []).append(name)
