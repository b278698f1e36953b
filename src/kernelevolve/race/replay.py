"""Replaying: a landscape in the place of the engineer and of the bench; everything else of a run is the real thing.

In: a landscape. Out: an `Equip` for runs over it. Left to others: writing, asking, telling, ending (`run`, with the
built-in writer), choosing (the policy).

The engineer offers moves in its own order for a diagnosis, crosses plans by what tells them apart, and drafts by random
moves; all of that is done here by the same rules on recorded steps. A step that leaves the recording is none: from a
place whose steps are all tried the writer has no move left, as in any run.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernelevolve import plugins
from kernelevolve.candidate import Candidate
from kernelevolve.errors import StoreError
from kernelevolve.evaluation import Evaluation, Figure, Timing
from kernelevolve.events import Created
from kernelevolve.platforms import Platform
from kernelevolve.propose import Draft
from kernelevolve.propose.builtin import plan_key
from kernelevolve.propose.walk import random_moves
from kernelevolve.race.landscape import Landscape, Step
from kernelevolve.run import Equipment
from kernelevolve.translate.cross import traits
from kernelevolve.translate.plan import Plan

REPLAYED = "replayed"
_HALF_WIDTH = 1.96  # of a 95 % interval, in standard errors


class RecordedTranslator:
    """The built-in engineer as far as it was recorded; see `propose.Translator`.

    Attributes:
        families: of moves that it can be told to prefer: none, its steps have no families.
    """

    families: tuple[str, ...] = ()

    def __init__(self, landscape: Landscape) -> None:
        known = [one.evaluation is not None for one in landscape.candidates]
        if not landscape.places or not known[landscape.places[0].candidate]:
            raise StoreError(f"the landscape of {landscape.name} has no evaluated first kernel; go on recording it")
        self._landscape = landscape
        self._keys = [plan_key(place.plan) for place in landscape.places]
        self._numbers = {key: number for number, key in reversed(list(enumerate(self._keys)))}
        self._known_traits: dict[int, frozenset[Any]] = {}
        self._steps = [
            [step for step in place.steps if known[landscape.places[step.to].candidate]] for place in landscape.places
        ]

    async def first(self, seed: int) -> Draft:
        """See `Translator.first`."""
        made = random_moves(seed, 0, self._steps.__getitem__, lambda step: step.to)
        return self._draft(made[-1].to if made else 0, ", then ".join(("first", *(step.name for step in made))))

    async def next(
        self, plan: Mapping[str, Any], limit: str, tried: Container[str], rng: random.Random, prefer: str = ""
    ) -> Draft | None:
        """See `Translator.next`."""
        steps = self._steps[self._number(plan)]
        return self._first_new(sorted(steps, key=lambda step: limit not in step.helps), tried)

    async def cross(self, plan: Mapping[str, Any], other: Mapping[str, Any], tried: Container[str]) -> Draft | None:
        """See `Translator.cross`."""
        here, wanted = self._number(plan), self._traits(self._number(other))
        apart = len(self._traits(here) ^ wanted)
        near = [(len(self._traits(step.to) ^ wanted), step) for step in self._steps[here]]
        crossings = [step for left, step in sorted(near, key=lambda pair: pair[0]) if 0 < left < apart]
        return self._first_new(crossings, tried)

    def adopt(self, plan: Mapping[str, Any]) -> Draft | None:
        """Nothing: a plan of another run is not part of a recording."""
        return None

    def _first_new(self, steps: Sequence[Step], tried: Container[str]) -> Draft | None:
        found = next((step for step in steps if self._keys[step.to] not in tried), None)
        return self._draft(found.to, found.name) if found is not None else None

    def _number(self, plan: Mapping[str, Any]) -> int:
        return self._numbers[plan_key(plan)]

    def _traits(self, number: int) -> frozenset[Any]:
        if number not in self._known_traits:
            plan = self._landscape.places[number].plan
            made_up = "kernels" not in plan
            self._known_traits[number] = (
                frozenset(enumerate(plan["choices"])) if made_up else traits(Plan.from_json(json.dumps(plan)))
            )
        return self._known_traits[number]

    def _draft(self, number: int, note: str) -> Draft:
        place = self._landscape.places[number]
        return Draft(self._landscape.candidates[place.candidate].source, place.plan, note)


class RecordedBench:
    """Answers with what was found; nothing is evaluated. See `run.Evaluator`.

    Who repeats another's launches was not measured by itself: of those, the first to come in a run is charged for the
    device time.

    Args:
        seed: of the run, for the noise of a made-up landscape.
    """

    def __init__(self, landscape: Landscape, seed: int) -> None:
        self._landscape, self._seed = landscape, seed
        self._numbers = {one.source: i for i, one in reversed(list(enumerate(landscape.candidates)))}
        self._charged: set[int] = set()

    async def evaluate(
        self, candidate: Candidate, *, progress: Callable[[str], None], keep: Callable[[bytes], str]
    ) -> Evaluation:
        """See `run.Evaluator.evaluate`."""
        number = self._numbers[candidate.source]
        recorded = self._landscape.candidates[number]
        first = recorded.twin if recorded.twin is not None else number
        paid = self._landscape.candidates[first].evaluation
        if recorded.evaluation is None or paid is None:
            raise StoreError(f"candidate {number} of {self._landscape.name} is not evaluated; go on recording it")
        found = recorded.evaluation
        noise = random.Random(f"{self._seed}:{number}:noise").gauss(0.0, 1.0) * self._landscape.noise
        held = 0.0 if first in self._charged else paid.device_seconds
        self._charged.add(first)
        timings = tuple(self._timing(t, math.exp(noise)) for t in found.timings)
        return replace(found, timings=timings, labels=(REPLAYED,), device_seconds=held)

    def _timing(self, timing: Timing, factor: float) -> Timing:
        width = math.exp(_HALF_WIDTH * self._landscape.noise) if self._landscape.noise else 0.0
        baselines = {name: _again(figure) for name, figure in timing.baselines.items()}
        return replace(
            timing,
            candidate=_again(timing.candidate, factor, width),
            baselines=baselines,
            speedup=_again(timing.speedup, 1.0 / factor, width),
        )


def _again(figure: Figure, factor: float = 1.0, width: float = 0.0) -> Figure:
    value, low, high = figure.value * factor, figure.low, figure.high
    if width:
        low, high = value / width, value * width
    return replace(figure, value=value, low=low, high=high, how=f"{figure.how}, {REPLAYED}")


def replaying(landscape: Landscape) -> Callable[[Created, Path], Equipment]:
    """Equips runs that search `landscape`.

    Raises:
        StoreError: not even its first kernel was evaluated.
        UnknownName: its platform is not registered here.
    """
    platform: Platform = plugins.load("platforms", landscape.platform)
    translator = RecordedTranslator(landscape)

    def equip(created: Created, builds: Path) -> Equipment:
        return Equipment(RecordedBench(landscape, created.seed), figures=platform.figures, translator=translator)

    return equip
