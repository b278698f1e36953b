"""Arms: who may answer a brief by which kind of move, and what each has earned so far.

In: the events of a log, or a graph to show. Out: answers, gains and costs of each arm, by what limited the parent. Left
to others: choosing an arm (`search.bandit`), honouring it (`propose`).

A gain is ln(fitness / reference), where the reference is the better of the correct parents, else the run's best before
it, else PyTorch; it counts where it is beyond noise (`search.progress`) and is 0 otherwise, as for faulty candidates,
duplicates and briefs that nobody answered. Reward over the parent is what ShinkaEvolve's choice of models takes
(arXiv 2509.19349); the cost in the denominator is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelevolve import codec
from kernelevolve.candidate import Candidate, Cost
from kernelevolve.evaluation import Evidence, Figure
from kernelevolve.events import Asked, Dropped, Evaluated, Event
from kernelevolve.graph import Graph, Node
from kernelevolve.search.progress import better_beyond_noise

#: The context of a fresh draft; all others are what limits the first parent, as a diagnosis names it.
DRAFT = "draft"
#: Who answers without being asked to: that it did says nothing about whom the brief was for.
GUEST = "guest"


@dataclass(frozen=True)
class Arm:
    """One way to have a brief answered.

    Attributes:
        writer: a writer's name, which has its model in it.
        move: a family of moves to prefer; empty for the writer's own choice.
    """

    writer: str
    move: str = ""

    def __str__(self) -> str:
        return f"{self.writer}, {self.move or 'own choice'}"


Key = tuple[str, ...]
"""(), (writer,), (writer, move) or (writer, move, context): each is folded along, so that a choice sums nothing up."""


@dataclass(slots=True)
class Earned:
    """What one key has earned.

    Attributes:
        answers: briefs that it answered, or failed to answer.
        gains: how many of them were gains, and `gained` their sum in ln(fitness).
        refused: times it was asked for and something else was made, because it had nothing to offer.
        pending: briefs in flight.
        priced: answers whose cost is known, and what these cost in US dollars, and in seconds of the writer and of the
            evaluation.
    """

    answers: int = 0
    gains: int = 0
    gained: float = 0.0
    refused: int = 0
    pending: int = 0
    priced: int = 0
    money_usd: float = 0.0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0

    def add(self, gain: float, cost: Cost | None, evaluation_seconds: float = 0.0) -> None:
        """One more answer; `cost` is None where it is not known."""
        self.answers += 1
        self.gains += gain > 0
        self.gained += gain
        if cost is not None:
            self.priced += 1
            self.money_usd += cost.money_usd
            self.seconds += cost.seconds
            self.evaluation_seconds += evaluation_seconds


@dataclass
class Books:
    """What all keys have earned.

    Attributes:
        earned: by key.
        asked: arm and context of each pending brief.
        best: the best fitness so far of each evidence.
    """

    earned: dict[Key, Earned] = field(default_factory=dict)
    asked: dict[str, tuple[Arm, str]] = field(default_factory=dict)
    best: dict[Evidence, Figure] = field(default_factory=dict)

    def at(self, key: Key) -> Earned:
        """What `key` has earned; nothing yet where it is new."""
        return self.earned.get(key) or _NOTHING

    def account(self, key: Key) -> Earned:
        """The same, to be added to."""
        return self.earned.setdefault(key, Earned())

    def told(self, node: Node, parents: list[Node], asked: Arm | None) -> None:
        """Takes an evaluated candidate in; `asked` is the arm of its brief where that is known."""
        gain, context = self.gain(node, parents), context_of_node(parents)
        self._remember(node)
        if node.candidate.origin:
            return  # somebody else earned it, in another run
        same = asked is not None and asked.writer == node.candidate.writer
        made = Arm(node.candidate.writer, node.candidate.move or (asked.move if asked and same else ""))
        keys = {(), (made.writer,), *_of(made, context)}
        if asked is not None and same and not asked.move:
            keys |= _of(asked, context)
        for key in keys:
            self.account(key).add(gain, known_cost(node.candidate), evaluation_seconds(node))
        if asked is not None and (asked.move not in ("", made.move) if same else made.writer != GUEST):
            for key in _of(asked, context):
                self.account(key).refused += 1

    def gain(self, node: Node, parents: list[Node]) -> float:
        """ln(fitness / reference) beyond noise; 0 otherwise."""
        mine = node.fitness
        if not _counts(node):
            return 0.0
        rivals = [p.fitness for p in parents if _counts(p) and p.fitness.evidence is mine.evidence]
        pytorch = Figure(1.0, mine.unit, mine.evidence, "PyTorch")
        reference = max(rivals, key=lambda f: f.value, default=self.best.get(mine.evidence, pytorch))
        return math.log(mine.value / reference.value) if better_beyond_noise(mine, reference) else 0.0

    def _remember(self, node: Node) -> None:
        best = self.best.get(node.fitness.evidence)
        if _counts(node) and (best is None or node.fitness.value > best.value):
            self.best[node.fitness.evidence] = node.fitness

_NOTHING = Earned()


class ArmsReducer:
    """Folds Books."""

    name = "arms"

    def start(self) -> Books:
        return Books()

    def fold(self, state: Books, event: Event, graph: Graph) -> Books:
        if isinstance(event, Asked):
            brief = event.brief
            arm = Arm(brief.writer, str(brief.move.get("prefer", "")))
            context = context_of(graph, brief.parents)
            state.asked[brief.id] = arm, context
            _pending(state, arm, context, 1)
        elif isinstance(event, Evaluated):
            node = graph.nodes[event.candidate]
            arm, context = state.asked.pop(node.candidate.brief)
            _pending(state, arm, context, -1)
            state.told(node, [graph.nodes[p] for p in node.parents], arm if arm.writer else None)
        elif isinstance(event, Dropped):
            arm, context = state.asked.pop(event.brief)
            _pending(state, arm, context, -1)
            for key in () if event.exhausted else ((), (arm.writer,), *_of(arm, context)):
                state.account(key).add(0.0, None)
        return state

    def save(self, state: Books, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return {
            "earned": [[list(key), codec.to_data(earned)] for key, earned in state.earned.items()],
            "asked": [[brief, arm.writer, arm.move, context] for brief, (arm, context) in state.asked.items()],
            "best": [[str(evidence), codec.to_data(figure)] for evidence, figure in state.best.items()],
        }

    def restore(self, data: Any, graph: Graph) -> Books:
        """See `Restorable.restore`."""
        return Books(
            {tuple(key): codec.from_data(Earned, earned) for key, earned in data["earned"]},
            {brief: (Arm(writer, move), context) for brief, writer, move, context in data["asked"]},
            {Evidence(evidence): codec.from_data(Figure, figure) for evidence, figure in data["best"]},
        )


def _pending(state: Books, arm: Arm, context: str, change: int) -> None:
    for key in ((), (arm.writer,), *_of(arm, context)):
        state.account(key).pending += change


def _of(arm: Arm, context: str) -> set[Key]:
    return {(arm.writer, arm.move), (arm.writer, arm.move, context)}


def context_of(graph: Graph, parents: tuple[str, ...]) -> str:
    """What limits the first parent, as its diagnosis names it; `draft` without parents."""
    return context_of_node([graph.nodes[p] for p in parents[:1]])


def context_of_node(parents: list[Node]) -> str:
    """The same of nodes."""
    if not parents:
        return DRAFT
    return parents[0].evaluation.diagnosis.partition(":")[0] or "unknown"


def known_cost(candidate: Candidate) -> Cost | None:
    """What writing it cost; None where its writer does not say, as a guest."""
    return candidate.cost if candidate.cost != Cost() else None


def evaluation_seconds(node: Node) -> float:
    """Seconds for which its evaluation held an accelerator; where it held none, what its rungs took."""
    if node.evaluation.device_seconds or node.duplicate_of:
        return node.evaluation.device_seconds
    return sum(rung.seconds for rung in node.evaluation.rungs)


def _counts(node: Node) -> bool:
    return node.evaluation.correct and not node.duplicate_of and node.fitness.value > 0


def earnings(graph: Graph) -> Mapping[tuple[Arm, str], Earned]:
    """What each arm has earned by context, as a look at the whole graph; by what was made, whatever was asked for."""
    books = Books()
    for node in graph.nodes.values():
        books.told(node, [graph.nodes[p] for p in node.parents], None)
    return dict(_arms(books))


def _arms(books: Books) -> Iterator[tuple[tuple[Arm, str], Earned]]:
    for key, earned in books.earned.items():
        if len(key) == 3:
            yield (Arm(key[0], key[1]), key[2]), earned
