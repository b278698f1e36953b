"""Memory: what a brief is told of this run and of earlier ones, by its mode.

In: the graph and the parents. Out: a few lines of text, as many in a long run as in a short one. Left to others: what
is known without any run (`knowledge`), reading earlier runs (`runs`).

The modes are those that the paper's authors name per node: none (a clean restart, to leave a local optimum), the
parent's trajectory, siblings, both. Notes from earlier runs come by chance, few of them first: their later study found
that more memory makes fewer faulty kernels and less diverse, less good best ones. Every draw comes from the run's seed
and the ask index.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.evaluation import Evidence
from kernelevolve.events import Evaluated, Event, Noted
from kernelevolve.graph import Graph, Node
from kernelevolve.problem import Problem
from kernelevolve.settings import MEMORY_MODES, RECALL

CHILDREN = 8
ANCESTORS = 8
REPEATS = 4
#: Characters of what a faulty candidate's line says of its fault.
LONGEST_FAULT = 240
#: Modelled times that differ by a smaller share than this are the same for all that the model knows.
MODEL_TELLS = 0.05
#: Most notes of earlier runs that a run keeps, and of one run among them.
EARLIER, EARLIER_PER_RUN = 16, 4
#: Topic of the note that holds them.
TOPIC = "earlier"


@dataclass(frozen=True)
class Memory:
    """One line per node.

    Attributes:
        best: of the run; empty in mode `none`.
        lineage: the latest of what the first parent descends from.
        children: latest siblings of what is asked for: what was written from the same parents.
        repeats: latest answers to the same parents that repeated a kernel; in every mode.
        earlier: notes from earlier runs.
        mode: as drawn, with what of the earlier notes was.
        lost: those of `children` that are faulty, repeats, or worse than a parent of theirs as far as times tell.
        beside: latest siblings of the first parent; without those that another line tells.
    """

    best: str
    lineage: tuple[str, ...]
    children: tuple[str, ...]
    repeats: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    mode: str = "both"
    lost: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


Key = tuple[str, ...]


@dataclass
class Latest:
    """Duplicates by their parents, `()` for fresh drafts; and fresh drafts. The latest of each."""

    repeats: dict[Key, list[str]] = field(default_factory=dict)
    drafts: list[str] = field(default_factory=list)


def _keys(parents: tuple[str, ...]) -> tuple[Key, ...]:
    # Of one parent each: what came of a crossover informs whoever goes on from either.
    return tuple((parent,) for parent in parents) or ((),)


class MemoryReducer:
    """Folds Latest."""

    name = "memory.latest"

    def start(self) -> Latest:
        return Latest()

    def fold(self, state: Latest, event: Event, graph: Graph) -> Latest:
        if not isinstance(event, Evaluated):
            return state
        parents = graph.nodes[event.candidate].parents
        if event.duplicate_of:
            for key in _keys(parents):
                latest = state.repeats.setdefault(key, [])
                latest.append(event.candidate)
                del latest[:-REPEATS]
        if not parents:
            state.drafts.append(event.candidate)
            del state.drafts[:-CHILDREN]
        return state

    def save(self, state: Latest, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return {"repeats": [[key, names] for key, names in state.repeats.items()], "drafts": state.drafts}

    def restore(self, data: Any, graph: Graph) -> Latest:
        """See `Restorable.restore`."""
        return Latest({tuple(key): names for key, names in data["repeats"]}, data["drafts"])


def remember(graph: Graph, parents: tuple[str, ...]) -> Memory:
    """What the graph tells about `parents`, in the mode of the next ask.

    The graph must fold `MemoryReducer`.
    """
    rng = random.Random(f"{graph.created.seed}:{graph.asked}:memory")
    modes = tuple(graph.settings.get("memory") or MEMORY_MODES[-1:])
    mode = rng.choice(modes)
    earlier, said = _recalled(graph, rng)
    # The prompt has the parents themselves.
    best = line(graph.best) if graph.best is not None and mode != "none" and graph.best.id not in parents else ""
    siblings = _siblings(graph, parents) if mode in ("siblings", "both") else ()
    return Memory(
        best,
        lineage_of(graph, graph.nodes[parents[0]].parents) if parents and mode in ("trajectory", "both") else (),
        tuple(map(line, siblings)),
        _repeated(graph, parents) if parents or mode != "none" else (),
        earlier,
        f"{mode}; {said}" if said else mode,
        tuple(line(node) for node in siblings if parents and _lost(graph, node)),
        _beside(graph, parents) if parents and mode in ("siblings", "both") else (),
    )


def lineage_of(graph: Graph, parents: tuple[str, ...]) -> tuple[str, ...]:
    """The first parent and the latest of its line of descent, oldest first."""
    line_of_descent: list[Node] = []
    name = parents[0] if parents else None
    while name is not None and len(line_of_descent) < ANCESTORS:
        node = graph.nodes[name]
        line_of_descent.append(node)
        name = node.parents[0] if node.parents else None
    return tuple(line(n) for n in reversed(line_of_descent))


def _siblings(graph: Graph, parents: tuple[str, ...]) -> tuple[Node, ...]:
    latest: Latest = graph.reduced(MemoryReducer.name)
    told = [child for parent in parents for child in graph.children(parent, last=CHILDREN)]
    names = told if parents else latest.drafts
    return tuple(graph.nodes[name] for name in dict.fromkeys(names))


def _beside(graph: Graph, parents: tuple[str, ...]) -> tuple[str, ...]:
    """What was written from where the first parent was written from: what its writer could not know yet."""
    told = {*parents, graph.best.id if graph.best is not None else ""}
    return tuple(line(n) for n in _siblings(graph, graph.nodes[parents[0]].parents) if n.id not in told)


def _lost(graph: Graph, node: Node) -> bool:
    return not node.correct or bool(node.duplicate_of) or not all(_may_gain(node, graph.nodes[p]) for p in node.parents)


def _may_gain(node: Node, parent: Node) -> bool:
    """Whether it is better than its parent, or, by a model that cannot tell them apart, perhaps is."""
    if node.fitness.evidence is Evidence.MEASURED:
        return node.rank > parent.rank
    return not parent.correct or node.fitness.value > (1 - MODEL_TELLS) * parent.fitness.value


def _repeated(graph: Graph, parents: tuple[str, ...]) -> tuple[str, ...]:
    latest: Latest = graph.reduced(MemoryReducer.name)
    found = dict.fromkeys(name for key in _keys(parents) for name in latest.repeats.get(key, ()))
    return tuple(_repeat(graph.nodes[name]) for name in found)


def share(graph: Graph) -> float:
    """The chance with which each note of earlier runs is told in the next brief: it goes straight from the low to the
    high end of `Settings.recall` while the run's candidates are asked for."""
    low, high = graph.settings.get("recall") or RECALL
    most = float(graph.settings.get("candidates") or 1)
    return float(low + (high - low) * min(1.0, graph.asked / most))


def _recalled(graph: Graph, rng: random.Random) -> tuple[tuple[str, ...], str]:
    notes = [text for note in graph.notes if note.topic == TOPIC for text in note.data["notes"]]
    if not notes:
        return (), ""
    p = share(graph)
    drawn = tuple(text for text in notes if rng.random() < p)
    return drawn, f"{len(drawn)} of {len(notes)} earlier notes at p = {p:.2f}"


def from_earlier(earlier: Iterable[Graph], problem: Problem, platform: str) -> Noted | None:
    """What earlier runs say, as the note that a new run's log keeps; None where they say nothing.

    Of each run the best correct candidates that somebody wrote a note for, none twice; runs of the same problem first,
    then of the same platform.
    """
    graphs = sorted(
        earlier,
        key=lambda g: (g.created.problem.key != problem.key, g.created.platform != platform),
    )
    notes: list[str] = []
    for graph in graphs:
        able = [node for node in graph.nodes.values() if node.correct and not node.duplicate_of]
        able.sort(key=lambda node: (node.rank, -node.index), reverse=True)
        said = itertools.islice((node for node in able if node.candidate.note), EARLIER_PER_RUN)
        where = f"{graph.created.problem.name} on {graph.created.platform}, run {graph.created.run}"
        notes += [f"{where}, {line(node)}" for node in said]
    if not notes:
        return None
    kept = list(dict.fromkeys(notes))[:EARLIER]
    count = f"{len(kept)} note{'s' * (len(kept) != 1)} from {len(graphs)} earlier run{'s' * (len(graphs) != 1)}"
    runs = [g.created.run for g in graphs]
    return Noted(TOPIC, count, {"notes": kept, "runs": runs})


def _repeat(node: Node) -> str:
    said = next((label for label in node.evaluation.labels if label.startswith("duplicate of ")), "")
    note = f". {node.candidate.note}" if node.candidate.note else ""
    return f"{node.id}: {said or f'duplicate of {node.duplicate_of}'}{note}"


def line(node: Node) -> str:
    """`n3 (from n1): OK_FASTER, fitness 1.31 x (measured). Note by the writer.`; of a faulty one what failed."""
    came = f"from {', '.join(node.parents)}" if node.parents else "fresh"
    found = f"fitness {node.fitness.value:.3g} {node.fitness.unit} ({node.fitness.evidence.value})"
    said = f". {node.candidate.note}" if node.candidate.note else ""
    again = f", duplicate of {node.duplicate_of}" if node.duplicate_of else ""
    failed = next((rung for rung in node.evaluation.rungs if rung.status == "failed"), None)
    if not node.correct and failed is not None:
        why = " ".join(failed.message.split())
        found = f"{failed.rung.value}: {why if len(why) <= LONGEST_FAULT else f'{why[:LONGEST_FAULT]}...'}"
    return f"{node.id} ({came}): {node.verdict.value}, {found}{again}{said}"
