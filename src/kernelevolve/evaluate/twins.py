"""Candidates that were built to the same launches as one that was measured: they hold no device.

In: what was built of a candidate at its default choice. Out: the candidate of this session that it repeats, with its
Evaluation. Left to others: telling it (`search.novelty`), skipping the rungs (`ladder`).

The same machine code under another grid computes another thing, and two files may be the same at one choice of knobs
only. So twins have the same knobs, and the same code, grids, arguments, fills and copies at the default choice and at
the one that was tuned for the first of them, for every workload; names alone may differ. Only correct ones are twins: a
wrong result may come from what is no launch.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kernelevolve import codec
from kernelevolve.candidate import Candidate, Choice
from kernelevolve.evaluate.building import Built
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluation import Evaluation, Guard, Rung, RungReport

Knobs = Mapping[str, Sequence[Choice]]


class Builds(Protocol):
    """What is used of a `Builder`."""

    def build(self, source: str, choice: Mapping[str, Choice], workloads: Sequence[str] = ()) -> list[Built]: ...


@dataclass(frozen=True)
class Twin:
    """A candidate that was measured, and what was found."""

    candidate: Candidate
    evaluation: Evaluation


class Twins:
    """What the correct candidates of one session on one platform were built to. Any thread may ask and tell."""

    def __init__(self) -> None:
        self._known: dict[str, Twin] = {}
        self._lock = threading.Lock()

    def of(self, candidate: Candidate, knobs: Knobs, built: Sequence[Built], builder: Builds) -> Twin | None:
        """The first candidate with the same knobs and launches; None where there is none."""
        key = _key(knobs, built)
        with self._lock:
            twin = self._known.get(key)
        if twin is None:
            return None
        for timing in twin.evaluation.timings:
            there, here = (_tuned(builder, one, timing.knobs, timing.workload) for one in (twin.candidate, candidate))
            if not there or there != here:
                return None
        return twin

    def tell(self, candidate: Candidate, knobs: Knobs, built: Sequence[Built], evaluation: Evaluation) -> None:
        """Takes note of what was measured."""
        if (key := _key(knobs, built)) and evaluation.correct and evaluation.timings:
            with self._lock:
                self._known.setdefault(key, Twin(candidate, evaluation))


def repeated(twin: Twin, reports: Sequence[RungReport], platform: str) -> Evaluation:
    """The Evaluation of a candidate that repeats `twin`, after the rungs that it climbed itself."""
    said = f"not measured: its launches are those of {twin.candidate.id}, whose findings these are"
    found = twin.evaluation
    return replace(
        found,
        rungs=(*reports, RungReport(Rung.CORRECT, "skipped", 0.0, said, platform)),
        labels=(*found.labels, said),
        guards=tuple(Guard(guard.name, "not run", said) for guard in found.guards),
        device_seconds=0.0,
    )


def _tuned(builder: Builds, candidate: Candidate, choice: Mapping[str, Choice], workload: str) -> str:
    try:
        return _key({}, builder.build(candidate.source, choice, (workload,)))
    except Failed:
        return ""


def _key(knobs: Knobs, built: Sequence[Built]) -> str:
    """A digest of everything but names; empty where the compiler said nothing of a launch."""
    if not built or not all(one.resources and all(r.binary for r in one.resources) for one in built):
        return ""
    facts = [{name: list(allowed) for name, allowed in knobs.items()}, [_facts(one) for one in built]]
    return hashlib.sha256(codec.dumps(facts).encode()).hexdigest()


def _facts(built: Built) -> list[object]:
    plan = built.plan
    kernels = {name: i for i, name in enumerate(dict.fromkeys(launch.kernel for launch in plan.launches))}
    launches = [
        [
            kernels[launch.kernel], launch.grid, launch.options, list(launch.signature.values()),
            list(launch.constants.values()), list(launch.arguments.values()),
        ]
        for launch in plan.launches
    ]  # fmt: skip
    code = [[kernels.get(r.kernel, -1), r.binary, r.warps, r.shared_bytes] for r in built.resources]
    return [plan.workload, plan.buffers, launches, plan.fills, plan.copies, code]
