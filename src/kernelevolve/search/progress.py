"""How a run gets on: gains beyond noise, and what they cost.

In: the events of the log. Out: the state that termination rules read. Left to others: when it is enough
(`search.termination`).

The standing best is the last candidate that was better than the one before it beyond noise, not the luckiest one: many
small steps count once together they are more than noise.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from kernelevolve.evaluation import Figure
from kernelevolve.events import Evaluated, Event, Noted
from kernelevolve.graph import RESULT, Graph, Node

#: Of the test whether a candidate is better beyond noise, over all that were compared with the same standing best.
LEVEL = 0.05
_SPENT = ("seconds", "device", "money")
_HALF_WIDTH = NormalDist().inv_cdf(0.975)  # of a 95 % interval, in standard errors


@dataclass
class Progress:
    """What has come of the candidates so far.

    Attributes:
        standing: id of the best candidate beyond noise; None while none is correct.
        standing_at: candidates evaluated when it was.
        compared: correct candidates of the same evidence that were compared with it.
        gains: for each gain beyond noise, its candidate's place (1 first) and ln(fitness / fitness of the one before).
        seconds, device, money: spent until each evaluation, in order: seconds of work, seconds a device was held, USD.
        device_seconds: all that candidates held, measuring the best again included.
    """

    standing: str | None = None
    standing_at: int = 0
    compared: int = 0
    gains: list[tuple[int, float]] = field(default_factory=list)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    device: array[float] = field(default_factory=lambda: array("d"))
    money: array[float] = field(default_factory=lambda: array("d"))
    device_seconds: float = 0.0

    @property
    def count(self) -> int:
        """Candidates evaluated."""
        return len(self.seconds)


class ProgressReducer:
    """Folds Progress."""

    name = "termination.progress"

    def start(self) -> Progress:
        return Progress()

    def fold(self, state: Progress, event: Event, graph: Graph) -> Progress:
        if isinstance(event, Evaluated):
            state.device_seconds += event.evaluation.device_seconds
            state.seconds.append(graph.active_seconds)
            state.device.append(state.device_seconds)
            state.money.append(graph.money_usd)
            _compare(state, graph.nodes[event.candidate], graph)
        elif isinstance(event, Noted) and event.topic == RESULT:
            state.device_seconds += sum(_held(again) for again in event.data.get("again", ()))
        return state

    def save(self, state: Progress, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return {**vars(state), **{name: getattr(state, name).tolist() for name in _SPENT}}

    def restore(self, data: Any, graph: Graph) -> Progress:
        """See `Restorable.restore`."""
        gains = [(place, gain) for place, gain in data["gains"]]
        return Progress(**{**data, "gains": gains, **{name: array("d", data[name]) for name in _SPENT}})


def _held(again: Any) -> float:
    return float(again["evaluation"].get("device_seconds", 0.0))


def _compare(state: Progress, node: Node, graph: Graph) -> None:
    if not node.correct or node.duplicate_of or not node.fitness.value > 0:
        return
    standing = graph.nodes[state.standing] if state.standing is not None else None
    if standing is not None and node.fitness.evidence is standing.fitness.evidence:
        state.compared += 1
        if not better_beyond_noise(node.fitness, standing.fitness, state.compared):
            return
        state.gains.append((state.count, math.log(node.fitness.value / standing.fitness.value)))
    elif standing is not None and node.fitness.evidence.rank < standing.fitness.evidence.rank:
        return
    state.standing, state.standing_at, state.compared = node.id, state.count, 0


def better_beyond_noise(new: Figure, old: Figure, tries: int = 1) -> bool:
    """Whether the fitness `new` is above `old` by more than chance gives the best of `tries` equal candidates.

    ln(new / old) must be more than z standard errors of the difference, each error being read off its 95 % interval,
    with z at the one-sided level 1 - 0.95^(1/tries) (Sidak, JASA 62(318), 1967). Asked after each of n equal candidates
    it says yes wrongly in about 0.05 (1 + 1/2 + ... + 1/n) of runs: 14 % for 8, 19 % for 25, 26 % for 100. A figure
    without an interval, as a modelled one, is taken as exact.
    """
    if not (new.value > old.value > 0):
        return False
    error = math.hypot(_error(new), _error(old))
    z = NormalDist().inv_cdf((1.0 - LEVEL) ** (1.0 / tries))
    return math.log(new.value / old.value) > z * error


def _error(figure: Figure) -> float:
    """The standard error of ln(value)."""
    if not figure.low or not figure.high:
        return 0.0
    return math.log(figure.high / figure.low) / (2.0 * _HALF_WIDTH)
