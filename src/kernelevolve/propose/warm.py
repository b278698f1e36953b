"""Warm start: a new run begins with the best candidates of earlier ones, which are evaluated anew.

In: a folder of runs, or one run; the new problem, its platform and family. Out: the note that has the seeds and says
where they are from; then a brief for each, and its answer. Left to others: reading runs (`store.history`), judging the
seeds as any other candidate (`evaluate`).

Near is, in this order: the same problem on the same platform; then the same family (`kernelevolve.family`) on the same
platform with other sizes, the nearest first. The second kind is looked at only where the first gives nothing. A seed
of another size is written anew from its plan where the built-in engineer made it, else taken as it is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import ENTRY, Brief, Cost
from kernelevolve.errors import StoreError, UsageError
from kernelevolve.evaluation import Figure
from kernelevolve.events import Asked, Event, Noted
from kernelevolve.family import Family
from kernelevolve.graph import Graph, Node
from kernelevolve.problem import Problem
from kernelevolve.propose import Answer, Translator
from kernelevolve.store.history import LOG, History, Past, graph_of, history, past_of
from kernelevolve.syntax import parse

#: Name under which seeds are written, and topic of the note that has them.
WARM = "warm-start"
AUTO, NONE = "auto", "none"
#: Most seeds of a run, also as one in so many of its candidates; most earlier runs whose whole log is read for them.
MOST, SHARE, LOOKED = 3, 4, 8
#: Most runs that are named as skipped; the note's data has them all.
TOLD = 4


@dataclass(frozen=True)
class Seed:
    """A candidate of an earlier run.

    Attributes:
        origin: `RUN/NODE`.
        how: why it is near.
        fitness: as that run found it.
        plan: of the built-in engineer, where it fits this problem.
        again: that run had taken it over itself.
    """

    origin: str
    how: str
    fitness: Figure
    source: str
    note: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True)
class New:
    """What a new run is about: enough to say what is near, and how many candidates it has in all."""

    problem: Problem
    platform: str
    family: Family | None = None
    translator: Translator | None = None
    candidates: int = MOST * SHARE

    @property
    def most(self) -> int:
        """Seeds that it begins with at most: they are evaluated within its budget."""
        return max(1, min(MOST, self.candidates // SHARE))


def asked_for(text: str | Path, platform: str) -> Path | None:
    """The run that is named, or that of `platform` among the sibling runs that are named; None for `auto` and `none`.

    Raises:
        UsageError: it holds no run.
        StoreTooNew, StoreError: it cannot be read.
    """
    if str(text) in (AUTO, NONE):
        return None
    folder = Path(text)
    if not (folder / LOG).exists() and (folder / platform / LOG).exists():
        folder = folder / platform
    try:
        past_of(folder)
    except StoreError as error:
        if type(error) is StoreError and "holds no run" in str(error):
            raise UsageError(
                f"warm start: {folder} holds no run; give the folder of a run, or {AUTO}, or {NONE}"
            ) from error
        raise
    return folder


def warm_start(text: str | Path, runs: Path, here: Path, new: New) -> tuple[Noted, tuple[Graph, ...]]:
    """What a new run in the folder `here` begins with, as the note that its log keeps, and the runs it is from.

    Args:
        text: `auto` for the runs in the folder `runs`, or the folder of one run.

    Raises:
        StoreTooNew, StoreError: the run that is named cannot be read.
    """
    named = asked_for(text, new.platform)
    if named is not None:
        past = past_of(named)
        known = History((past,))
        order = [(past, _near(past, new) or f"{past.problem}, {past.platform}, as you asked")]
        folder = named.parent
    else:
        known = history(runs, here)
        order, folder = _order(known, new), runs
    return _taken(known, order, folder, new, named is not None)


def _order(known: History, new: New) -> list[tuple[Past, str]]:
    """The near runs, nearest first, with the reason; those of the same problem only, where there are any."""
    same = [past for past in known.runs if past.key == new.problem.key and past.platform == new.platform]
    if same:
        return [(past, _near(past, new)) for past in reversed(same)]
    alike = [(past, how) for past in known.runs if (how := _near(past, new))]
    return sorted(alike, key=lambda pair: (_apart(pair[0], new), -pair[0].wall))


def _near(past: Past, new: New) -> str:
    """Why a run is near; empty where it is not."""
    if past.platform != new.platform:
        return ""
    if past.key == new.problem.key:
        return f"same problem, {past.platform}"
    if past.family is not None and new.family is not None and past.family.alike(new.family):
        return f"{past.problem}, same family on {past.platform}, sizes {_apart(past, new):.2g} apart in log2"
    return ""


def _apart(past: Past, new: New) -> float:
    return past.family.apart(new.family) if past.family is not None and new.family is not None else 0.0


def _taken(
    known: History, order: Sequence[tuple[Past, str]], folder: Path, new: New, named: bool
) -> tuple[Noted, tuple[Graph, ...]]:
    """What fits of the near runs: the nearest sizes first, of these the best, of equals those of the latest run."""
    seeds: list[tuple[float, Seed]] = []
    dropped: list[str] = []
    skipped, graphs = list(known.skipped), dict[str, Graph]()
    for past, how in order[:LOOKED]:
        try:
            graph = graph_of(folder / past.place)
        except StoreError as error:
            if named:
                raise
            skipped.append(f"{past.place}: {error}")
            continue
        graphs[past.run] = graph
        going = "" if graph.finished else f", which has not ended: as of its entry {graph.next_sequence - 1}"
        for node in _best(graph):
            made = _fitted(node, past, how + going, new)
            if isinstance(made, Seed):
                seeds.append((-_apart(past, new), made))
            else:
                dropped.append(made)
    different: dict[str, Seed] = {}
    for _, seed in sorted(seeds, key=lambda pair: (pair[0], _rank(pair[1])), reverse=True):
        different.setdefault(seed.source, seed)
    kept = list(different.values())[: new.most]
    used = {seed.origin.split("/")[0] for seed in kept}
    data = {
        "seeds": codec.to_data(tuple(kept)),
        "dropped": dropped,
        "skipped": skipped,
        "runs": len(known.runs),
        "rebuilt": known.rebuilt,
    }
    return Noted(WARM, _said(kept, dropped, skipped, len(known.runs)), data), tuple(
        graph for run, graph in graphs.items() if run in used
    )


def _best(graph: Graph) -> list[Node]:
    """The best correct nodes of a run, the one that was measured again first."""
    again = str(graph.result.data.get("result", "")) if graph.result else ""
    able = [
        n for n in graph.nodes.values() if n.evaluation.correct and not n.duplicate_of and n.fitness.value > 0
    ]
    able.sort(key=lambda node: (node.id == again, node.rank, -node.index), reverse=True)
    return able[:MOST]


def _rank(seed: Seed) -> tuple[int, float, bool]:
    """Of the same kernel in two runs, the one that was made there is the seed."""
    return seed.fitness.evidence.rank, seed.fitness.value, not seed.again


def _fitted(node: Node, past: Past, how: str, new: New) -> Seed | str:
    """The node as a seed of the new run, or why it is none."""
    candidate, origin, again = node.candidate, f"{past.run}/{node.id}", bool(node.candidate.origin)
    draft = new.translator.adopt(candidate.plan) if new.translator is not None and candidate.plan else None
    same = past.key == new.problem.key
    if draft is not None and not same:
        how = f"{how}, written anew for these"
        return Seed(origin, how, node.fitness, draft.source, candidate.note, draft.plan, again)
    if not same and (why := misfit(candidate.source, new.problem.source)):
        return f"{origin}: {why}"
    plan = candidate.plan if draft is not None else {}
    return Seed(origin, how, node.fitness, candidate.source, candidate.note, plan, again)


def _said(seeds: Sequence[Seed], dropped: Sequence[str], skipped: Sequence[str], runs: int) -> str:
    if seeds:
        by: dict[tuple[str, str], list[Seed]] = {}
        for seed in seeds:
            by.setdefault((seed.origin.split("/")[0], seed.how), []).append(seed)
        text = "; ".join(_from(run, how, some) for (run, how), some in by.items())
    else:
        text = f"nothing fitted among {runs} earlier run{'s' * (runs != 1)}"
    text += f"; does not fit: {', '.join(dropped)}" if dropped else ""
    more = f"; and {len(skipped) - TOLD} more" if len(skipped) > TOLD else ""
    return text + (f"; skipped: {'; '.join(skipped[:TOLD])}{more}" if skipped else "")


def _from(run: str, how: str, seeds: Sequence[Seed]) -> str:
    found = [(seed.origin.split("/")[1], seed.fitness) for seed in seeds]
    nodes = ", ".join(f"{node} {figure.value:.3g}{figure.unit} {figure.evidence.value} there" for node, figure in found)
    return f"{len(seeds)} candidate{'s' * (len(seeds) != 1)} from run {run} ({how}): {nodes}"


# -- does it fit


def misfit(source: str, reference: str) -> str:
    """Why a kernel file cannot stand for a reference: its constructor or `forward` takes another number of arguments.

    Empty where it can, or where the text does not say.
    """
    try:
        mine, wanted = _class(parse(source), ENTRY), _class(parse(reference), "Model")
    except SyntaxError as error:
        return f"not Python: {error.msg}"
    if mine is None:
        return f"it defines no {ENTRY}"
    for method in ("__init__", "forward") if wanted is not None else ():
        has, needs = _takes(mine, method), _takes(wanted, method)
        if has is not None and needs is not None and not has[0] <= needs[1] <= has[1]:
            return f"its {method} takes {has[1]} arguments, the reference's {needs[1]}"
    return ""


def _class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)


def _takes(cls: ast.ClassDef | None, method: str) -> tuple[float, float] | None:
    """Fewest and most positional arguments, `self` apart; None where the class does not define the method itself."""
    made = [node for node in (cls.body if cls else ()) if isinstance(node, ast.FunctionDef) and node.name == method]
    if not made:
        return None
    args = made[-1].args
    count = len(args.posonlyargs) + len(args.args) - 1
    return count - len(args.defaults), float("inf") if args.vararg else count


# -- in the loop


@dataclass
class Waiting:
    """Seeds, and how many of them were asked for."""

    seeds: list[Any] = field(default_factory=list)
    asked: int = 0


class SeedsReducer:
    """Folds Waiting."""

    name = WARM

    def start(self) -> Waiting:
        return Waiting()

    def fold(self, state: Waiting, event: Event, graph: Graph) -> Waiting:
        if isinstance(event, Noted) and event.topic == WARM:
            state.seeds += event.data.get("seeds", ())
        elif isinstance(event, Asked) and event.brief.writer == WARM:
            state.asked += 1
        return state

    def save(self, state: Waiting, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return {"seeds": state.seeds, "asked": state.asked}

    def restore(self, data: Any, graph: Graph) -> Waiting:
        """See `Restorable.restore`."""
        return Waiting(list(data["seeds"]), int(data["asked"]))


def brief_for_seed(graph: Graph) -> Brief | None:
    """The brief that the next seed answers; None once all are asked for."""
    waiting: Waiting = graph.reduced(SeedsReducer.name)
    if waiting.asked >= len(waiting.seeds):
        return None
    return Brief(f"b{graph.asked}", graph.asked, (), "", {"seed": waiting.asked}, writer=WARM)


def answer_by_seed(brief: Brief, graph: Graph) -> Answer:
    """The seed that answers `brief`."""
    waiting: Waiting = graph.reduced(SeedsReducer.name)
    seed = codec.from_data(Seed, waiting.seeds[int(brief.move["seed"])])
    return Answer(seed.source, seed.note or "taken over", seed.plan, Cost(), origin=seed.origin)


def seeds_of(graph: Graph) -> Iterator[tuple[Seed, Node | None]]:
    """Each seed of a run, and the node that it has become."""
    nodes = {node.candidate.origin: node for node in graph.nodes.values() if node.candidate.origin}
    for note in graph.notes:
        if note.topic == WARM:
            for data in note.data.get("seeds", ()):
                seed = codec.from_data(Seed, data)
                yield seed, nodes.get(seed.origin)
