"""The control of a run: a share of its candidates that are asked for anew, from the same seeds, apart from the search.

In: the events of a run, as a reducer sees them; its graph. Out: whose turn the next brief is; two graphs, of which
neither shows anything of the other; whether the search beat the control. Left to others: asking and telling (`run`).

Each of the two graphs is the fold of a log of its own, with its own numbers: the search chooses exactly as it would in
a run without control, and the control's briefs are those of a run with policy `best_of_n` and memory `none`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kernelevolve import snapshot
from kernelevolve.evaluation import Figure
from kernelevolve.events import STEER, Asked, Created, Dropped, Entry, Evaluated, Event, Noted, Written
from kernelevolve.graph import Graph, Node, Reducer, fold
from kernelevolve.node import Shelf

#: The control's own policy.
POLICY = "best_of_n"
#: Chance below which what is seen is not put down to it, on either side.
LEVEL = 0.025
_EXACT = 60  # halvings of an interval: to the last digit
_FORGETFUL = ("none",)


@dataclass
class Apart:
    """The two logs of a run, folded apart.

    Attributes:
        belongs: whether a brief in flight is the control's, by its id.
        search_at, control_at: where in the run's log the entries of each graph's own log are.
    """

    search: Graph
    control: Graph
    belongs: dict[str, bool] = field(default_factory=dict)
    search_at: array[int] = field(default_factory=lambda: array("q"))
    control_at: array[int] = field(default_factory=lambda: array("q"))

    def of(self, control: bool) -> Graph:
        """What the search, or the control, may see."""
        return self.control if control else self.search


class ControlReducer:
    """Folds Apart.

    Args:
        search, control: reducers of the two graphs.

    Attributes:
        reducers: all of these.
    """

    name = "control.apart"

    def __init__(self, search: Sequence[Reducer], control: Sequence[Reducer]) -> None:
        self._search, self._control = tuple(search), tuple(control)
        self.reducers = (*self._search, *self._control)

    def start(self) -> Apart:
        return Apart(Graph(self._search), Graph(self._control))

    def fold(self, state: Apart, event: Event, graph: Graph) -> Apart:
        if isinstance(event, Created) and graph._shelf is not None:
            state.search = Graph(self._search, _shelf(graph._shelf, state.search_at))
            state.control = Graph(self._control, _shelf(graph._shelf, state.control_at))
        if isinstance(event, Asked):
            mine = state.belongs[event.brief.id] = event.brief.control
            event = Asked(replace(event.brief, index=state.of(mine).asked))
        elif isinstance(event, Written):
            mine = state.belongs[event.candidate.brief]
        elif isinstance(event, Evaluated):
            mine = state.belongs.pop(graph.nodes[event.candidate].candidate.brief)
        elif isinstance(event, Dropped):
            mine = state.belongs.pop(event.brief)
        else:
            _append(state, False, event, graph)
            _append(state, True, _forgotten(event), graph)
            return state
        _append(state, mine, event, graph)
        return state

    def save(self, state: Apart, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return {
            "search": snapshot.save(state.search),
            "control": snapshot.save(state.control),
            "belongs": state.belongs,
            "search_at": state.search_at.tolist(),
            "control_at": state.control_at.tolist(),
        }

    def restore(self, data: Any, graph: Graph) -> Apart:
        """See `Restorable.restore`."""
        if graph._shelf is None:
            raise ValueError("a graph without a shelf has no control to restore")
        search_at, control_at = array("q", data["search_at"]), array("q", data["control_at"])
        created = _forgotten(graph.created)
        assert isinstance(created, Created)
        search = snapshot.restore(data["search"], graph.created, self._search, _shelf(graph._shelf, search_at))
        control = snapshot.restore(data["control"], created, self._control, _shelf(graph._shelf, control_at))
        return Apart(search, control, data["belongs"], search_at, control_at)


def _shelf(shelf: Shelf, at: array[int]) -> Shelf:
    """A shelf on the log of one of the two graphs, whose entries are in the run's log in these places."""
    return Shelf(lambda sequence: shelf.read(at[sequence]))


def _append(state: Apart, mine: bool, event: Event, graph: Graph) -> None:
    view, at = state.of(mine), state.control_at if mine else state.search_at
    at.append(graph.next_sequence - 1)
    fold(view, Entry(view.next_sequence, 0, graph.active_seconds, event))


def _forgotten(event: Event) -> Event:
    """`event` as the control sees it: nobody who is asked again is told of what was found."""
    if isinstance(event, Created):
        return replace(event, settings=_without_memory(event.settings))
    if isinstance(event, Noted) and event.topic == "settings":
        return replace(event, data=_without_memory(event.data))
    if isinstance(event, Noted) and event.topic in ("earlier", STEER):
        return Noted("left out", event.text)
    return event


def _without_memory(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**settings, "memory": list(_FORGETFUL)}


def share_of(settings: Mapping[str, Any]) -> float:
    """The control's share of the candidates, of settings as data."""
    return float(settings.get("control") or 0.0)


def view(graph: Graph, control: bool = False) -> Graph:
    """The part of a run's graph that the search, or the control, may see; all of it in a run without control."""
    if not share_of(graph.created.settings):
        return graph
    apart: Apart = graph.reduced(ControlReducer.name)
    return apart.of(control)


def is_controls_turn(graph: Graph) -> bool:
    """Whether the next brief is the control's: its share of the candidates is never exceeded, nor by one less."""
    share = share_of(graph.created.settings)
    if not share:
        return False
    mine = view(graph, control=True)
    due = mine.candidates + 1 <= share * (graph.candidates + 1) + 1e-9
    return due and not mine.is_exhausted(())


@dataclass(frozen=True)
class Compared:
    """The search and the control of one run.

    Attributes:
        share: that the control was given.
        search, control: candidates evaluated.
        search_best, control_best: fitness of the best of each; None while none is correct.
        equal: fitness of the search's best when it had as many candidates as the control has.
        above: candidates of the winning side that are better than the other side's best, duplicates left out.
        chance: of as many or more, if both drew from the same candidates.
        reaching: control's candidates that are as good as the search's best.
        low, high: 95 % interval of the chance with which a candidate of the control is.
        winner: `search`, `control`, or empty where chance is enough to explain what is seen.
        said: all of this in words.
    """

    share: float
    search: int
    control: int
    search_best: Figure | None
    control_best: Figure | None
    equal: float
    above: int
    chance: float
    reaching: int
    low: float
    high: float
    winner: str
    said: str


def compare_with_control(graph: Graph) -> Compared | None:
    """Whether the search beat the control; None in a run without one.

    The test is that of exceedances (Rosenbaum, Annals of Mathematical Statistics 25, 1954): if searching were asking
    again, all candidates were exchangeable, and the best `above` of them all were the search's with the chance
    prod (s - i) / (s + c - i) over i < above. It is exact, and needs no assumption on how fitness is distributed. The
    interval is that of Clopper and Pearson (Biometrika 26, 1934).
    """
    share = share_of(graph.created.settings)
    if not share:
        return None
    control = [node for node in graph.nodes.values() if not node.parents and node.candidate.control]
    apart = {node.id for node in control}
    search = [node for node in graph.nodes.values() if node.id not in apart]
    ours, theirs = _best(search), _best(control)
    above = _above(search, theirs)
    chance = _chance(above, len(search), len(control))
    below = _above(control, ours)
    winner = "search" if above and chance <= LEVEL else ""
    if below:
        above, chance = below, _chance(below, len(control), len(search))
        winner = "control" if chance <= LEVEL else ""
    reaching = sum(ours is not None and node.rank >= ours.rank for node in control)
    low, high = clopper_pearson(reaching, len(control))
    equal = _best(search[: len(control)])
    found = Compared(
        share, len(search), len(control), ours.fitness if ours else None, theirs.fitness if theirs else None,
        equal.fitness.value if equal else 0.0, above, chance, reaching, low, high, winner, "",
    )  # fmt: skip
    return replace(found, said=_said(found, bool(below)))


def _best(nodes: Sequence[Node]) -> Node | None:
    """The best correct node (`rank` begins with that), the earliest of equals."""
    return max((node for node in nodes if node.rank[0]), key=lambda n: (n.rank, -n.index), default=None)


def _above(nodes: Sequence[Node], best: Node | None) -> int:
    able = [node for node in nodes if node.rank[0] and not node.duplicate_of]
    return sum(best is None or node.rank > best.rank for node in able)


def _chance(above: int, mine: int, others: int) -> float:
    return math.prod(((mine - i) / (mine + others - i) for i in range(above)), start=1.0)


def clopper_pearson(hits: int, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a chance that came true `hits` times in `count`; 0 to 1 where nothing was tried."""
    if not count:
        return 0.0, 1.0

    ways = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in range(hits + 1)]

    def at_most(k: int, p: float) -> float:
        yes, no = math.log(p), math.log1p(-p)
        return sum(math.exp(ways[i] + i * yes + (count - i) * no) for i in range(k + 1))

    def solved(rises: Any) -> float:
        low, high = 0.0, 1.0
        for _ in range(_EXACT):
            middle = (low + high) / 2
            low, high = (middle, high) if rises(middle) else (low, middle)
        return low

    low = solved(lambda p: 1 - at_most(hits - 1, p) < LEVEL) if hits else 0.0
    high = solved(lambda p: at_most(hits, p) > LEVEL) if hits < count else 1.0
    return low, high


def _said(found: Compared, behind: bool) -> str:
    if not found.control or not found.search:
        missing = "control" if not found.control else "search"
        return f"nothing can be said: no candidate of the {missing} is evaluated"
    ours, theirs = _figure(found.search_best), _figure(found.control_best)
    facts = (
        f"{ours} by searching with {found.search} candidates, {theirs} by asking again {found.control} times "
        f"({found.equal:.4g}x by searching with as many)"
    )
    first, other = ("control's", "search's") if behind else ("search's", "control's")
    test = f"none of the {first} candidates beats the {other} best"
    if found.above:
        chance = f"as many as by chance in {found.chance:.2g} of such runs (exact)"
        test = f"{found.above} of the {first} candidates beat the {other} best, {chance}"
    draws = (
        f"a further time of asking reaches the search's best with a chance of {found.low:.0%} to {found.high:.0%} "
        f"({found.reaching} of {found.control} did)"
    )
    head = {
        "search": "the search beat the control", "control": "the control beat the search",
        "": "too close to tell, or too small a control",
    }[found.winner]  # fmt: skip
    return f"{head}: {facts}; {test}; {draws}"


def _figure(best: Figure | None) -> str:
    return f"{best.value:.4g}x ({best.evidence})" if best else "nothing correct"
