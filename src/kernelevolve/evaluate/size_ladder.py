"""The size ladder: whether a candidate computes less at a larger size, as one does that is exact only where it is
checked and cheap where it is timed.

In: a Trial that was right, the secret, the lane. Out: what was seen at several sizes from small to large; `Failed`
where a value is wrong at one of them. Left to others: drawing the sizes (`tensors.hidden`), comparing (`correct`).

Every call here is compared like any other. The times are the worker's own and convict nobody: where they fall although
the work grows, a kernel has taken another path, which an honest one may do too (a tile for large sizes, a tensor core).
So both sizes are then compared on all the lane's distributions, and only a wrong value is held against it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kernelevolve.errors import ProblemError
from kernelevolve.evaluate.asking import Failed, Trial, Unseen, generalization, refuses
from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.correct import compare
from kernelevolve.evaluate.secrets import Seeds
from kernelevolve.evaluate.talk import Talk
from kernelevolve.evaluation import Evidence
from kernelevolve.protocol import Case, Description
from kernelevolve.settings import Lane

GUARD = "size-ladder"
RUNGS, LEAST = 5, 3  # sizes that are tried; fewer than LEAST show no course
CALLS = 4  # at each size; the first compiles and is not counted
FALL = 0.3  # of the time, while the work grows
SECONDS = 60.0  # after which no further size is begun


@dataclass
class Ladder:
    """What was seen.

    Attributes:
        seconds: the shortest call at each size that was computed, from small to large.
        falls: pairs of neighbouring sizes at which the time falls.
        not_run: why nothing can be said; empty where something can.
    """

    seconds: list[float] = field(default_factory=list)
    falls: list[tuple[Description, Description]] = field(default_factory=list)
    refused: int = 0
    not_run: str = ""
    labels: list[str] = field(default_factory=list)

    @property
    def detail(self) -> str:
        """One line; no size is in it."""
        times = ", ".join(f"{s * 1e3:.3g}" for s in self.seconds)
        said = f"right at {len(self.seconds)} sizes from small to large, in {times} ms"
        if self.refused:
            said += f"; {self.refused} were refused with a reason"
        return f"{said}; where the time falls, values were right on all inputs of the lane" if self.falls else said


def climb_sizes(bench: Bench, trial: Trial, seeds: Seeds, lane: Lane, distribution: str) -> Ladder:
    """Runs the candidate at sizes from small to large.

    Args:
        distribution: of the inputs that are timed.

    Raises:
        Failed: a value is wrong at one of the sizes.
    """
    workload = trial.description.variant.workload
    sizes = bench.ladder(workload, trial.device, seeds.seed(f"{GUARD}/{workload}"), RUNGS)
    found = Ladder()
    if len(sizes) < LEAST:
        found.not_run = f"the reference runs at {len(sizes)} sizes from small to large, {LEAST} are needed"
        return found
    again: list[Case] = []
    begun, before = time.monotonic(), sizes[0]
    for description in sizes:
        if time.monotonic() - begun > SECONDS and len(found.seconds) >= LEAST:
            break
        cases = [seeds.case(f"{GUARD}/{description.variant.label}/{n}", distribution) for n in range(CALLS)]
        seconds = _at(bench, trial, description, cases, found)
        if seconds is None:
            continue
        if found.seconds and seconds < (1.0 - FALL) * found.seconds[-1]:
            # Noise alone makes a call slow now and then, but not twice the shortest of several.
            found.seconds[-1] = min(found.seconds[-1], _at(bench, trial, before, again, found) or math.inf)
            if seconds < (1.0 - FALL) * found.seconds[-1]:
                found.falls.append((before, description))
        found.seconds.append(seconds)
        again = cases
        before = description
    if len(found.seconds) < LEAST:
        found.not_run = f"the candidate computes {len(found.seconds)} of {len(sizes)} sizes, {LEAST} are needed"
    for pair in found.falls:
        _look_closer(bench, trial, pair, seeds, lane, found)
    if found.falls and trial.device != "cpu":  # what the interpreter takes says little about a device
        found.labels.append("takes less time at a larger size")
    return found


def _at(bench: Bench, trial: Trial, size: Description, cases: Sequence[Case], found: Ladder) -> float | None:
    """The shortest of the calls at one size; None where it is not computed."""
    seconds: list[float] = []

    def then(talk: Talk) -> None:
        seconds.extend(talk.seconds)

    evidence = Evidence.INTERPRETED if trial.device == "cpu" else Evidence.MEASURED
    try:
        compare(bench, replace(trial, description=size), cases, evidence, then)
    except (Unseen, ProblemError):
        return None
    except Failed as failed:
        if refuses(failed):
            found.refused += 1
            return None
        if not size.variant.scaled:
            raise  # that is the declared size
        wrong = generalization(failed, "a shape that is not declared")
        wrong.correctness = None
        raise wrong.knowing(guard=GUARD, sizes=list(size.variant.scaled), text=size.variant.source) from failed
    finally:
        bench.forget(size, trial.device)
    return min(seconds[1:], default=None)


def _look_closer(
    bench: Bench, trial: Trial, pair: tuple[Description, Description], seeds: Seeds, lane: Lane, found: Ladder
) -> None:
    """Both sizes on every distribution of the lane that is used."""
    for size in pair:
        used = bench.admitted(lane.distributions)
        cases = [seeds.case(f"{GUARD}/{size.variant.label}/closer", name) for name in used]
        _at(bench, trial, size, cases, found)
