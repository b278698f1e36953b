"""A node of the search graph, and the shelf from which the large part of it is read when somebody asks.

In: a candidate with what the harness found; or the places in the log where both were written. Out: frozen values that
look the same either way. Left to others: folding (`graph`), the log (`store`).

A node of a long run is small: its place, its parents, its verdict, its fitness. Source and evaluation stay in the log,
of which they are a part already, and those that were asked for last are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernelevolve.candidate import Candidate
from kernelevolve.errors import StoreError
from kernelevolve.evaluation import Evaluation, Figure, Verdict
from kernelevolve.events import Entry, Evaluated, Written

_put = object.__setattr__  # a Node is frozen
#: Nodes whose candidate and evaluation a shelf holds: shorter runs are in memory as a whole.
HELD = 1000


class Shelf:
    """Candidates and evaluations by their places in the log; the `held` nodes used last are in memory.

    Attributes:
        read: gives the entry of the log with this sequence number; raises StoreError where there is none.
    """

    def __init__(self, read: Callable[[int], Entry], held: int = HELD) -> None:
        self.read, self._most = read, 2 * held
        self._values: OrderedDict[int, Candidate | Evaluation] = OrderedDict()
        # Artefacts are written and read from other threads too.
        self._lock = threading.Lock()

    def put(self, sequence: int, value: Candidate | Evaluation) -> None:
        """Holds the value of the entry `sequence`, in the place of what was not asked for longest."""
        with self._lock:
            self._values[sequence] = value
            self._values.move_to_end(sequence)
            if len(self._values) > self._most:
                self._values.popitem(last=False)

    def get(self, sequence: int, node: Node) -> Candidate | Evaluation:
        """What the entry `sequence` says of `node`.

        Raises:
            StoreError: it cannot be read, or is not the one that the node was made of.
        """
        with self._lock:
            if sequence in self._values:
                self._values.move_to_end(sequence)
                return self._values[sequence]
        event = self.read(sequence).event
        if isinstance(event, Written) and event.candidate.id == node.id:
            value: Candidate | Evaluation = event.candidate
        elif isinstance(event, Evaluated) and (event.candidate, event.evaluation.verdict) == (node.id, node.verdict):
            value = event.evaluation
        else:
            raise StoreError(
                f"entry {sequence} of the log is not what node {node.id} was made of; the log has been changed under "
                "this process: open the run again"
            )
        self.put(sequence, value)
        return value


class _AtHand:
    """What a node knows without its fields, or needs to get at them."""

    __slots__ = ("_evaluated", "_shelf", "_written", "correct", "id", "verdict")

    id: str
    verdict: Verdict
    correct: bool
    _shelf: Shelf
    _written: int
    _evaluated: int


@dataclass(frozen=True, slots=True)
class Node(_AtHand):
    """A candidate with its evaluation and fitness.

    `candidate` and `evaluation` of a node on a shelf are read from the log when they are asked for, and may raise
    StoreError; everything else is at hand, so what looks at many nodes asks for nothing else.

    Attributes:
        index: place among the evaluated, 0 first.
        duplicate_of: id of the node that it repeats; empty for a new one.
        id: of the candidate.
        verdict: of the evaluation.
        correct: whether the verdict says that the values are right.
    """

    index: int
    parents: tuple[str, ...]
    candidate: Candidate
    evaluation: Evaluation
    fitness: Figure
    duplicate_of: str = ""

    def __post_init__(self) -> None:
        _put(self, "id", self.candidate.id)
        _put(self, "verdict", self.evaluation.verdict)
        _put(self, "correct", self.evaluation.correct)
        _put(self, "_written", -1)
        _put(self, "_evaluated", -1)

    @property
    def rank(self) -> tuple[bool, int, float]:
        """Orders nodes, best last: correct first, then by strength of evidence (the device has the last word), then
        by fitness."""
        return (self.correct, self.fitness.evidence.rank, self.fitness.value)

    @property
    def places(self) -> tuple[int, int]:
        """Where candidate and evaluation are in the log; (-1, -1) for a node that is on no shelf."""
        return (self._written, self._evaluated)

    def __reduce__(self) -> tuple[type[Node], tuple[Any, ...]]:
        # A copy is on no shelf.
        return Node, (self.index, self.parents, self.candidate, self.evaluation, self.fitness, self.duplicate_of)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Reached only for a field that was never set: what a node on a shelf does not hold itself.
            if name == "candidate":
                return self._shelf.get(self._written, self)
            if name == "evaluation":
                return self._shelf.get(self._evaluated, self)
            raise AttributeError(f"a node has no {name!r}")


def shelved(
    shelf: Shelf,
    written: int,
    evaluated: int,
    *,
    index: int,
    parents: tuple[str, ...],
    fitness: Figure,
    duplicate_of: str,
    id: str,
    verdict: Verdict,
) -> Node:
    """The node whose candidate is in the entry `written` of the log that `shelf` reads, and whose evaluation in the
    entry `evaluated`."""
    node = object.__new__(Node)
    _put(node, "index", index)
    _put(node, "parents", parents)
    _put(node, "fitness", fitness)
    _put(node, "duplicate_of", duplicate_of)
    _put(node, "id", id)
    _put(node, "verdict", verdict)
    _put(node, "correct", verdict.ok)
    _put(node, "_shelf", shelf)
    _put(node, "_written", written)
    _put(node, "_evaluated", evaluated)
    return node
