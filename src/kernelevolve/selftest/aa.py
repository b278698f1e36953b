"""A kernel against itself: how often the timing claims a difference where there is none.

In: a device and a number of comparisons, or none for a simulation. Out: an `EqualArms`. Left to others: the design of
the timing itself (`evaluate.timing`).

On a device, the same PyTorch operation is candidate and baseline: it goes all the way that a candidate goes, in a
process of its own, each timed call on new inputs and compared; each comparison has new processes on both sides. Without
a device, arms of made-up times go through the same `time_arms`: 1 ms times exp of a slow drift (autoregressive with
standard deviation 1 % and a correlation of 0.98 from one burst to the next), a thermal ramp of 2 % and noise of 1 % per
call.

A claim is an interval that leaves 1 out when the measurement ends. Up to 5 % of comparisons may claim; more than
chance explains at 1 % (binomial) says that the intervals are too narrow.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kernelevolve.evaluate.bench import Bench
from kernelevolve.evaluate.measure import Device
from kernelevolve.evaluate.roles import Roles
from kernelevolve.evaluate.timing import CANDIDATE, Blocks, Plan, Timed, time_arms
from kernelevolve.evaluation import Verdict
from kernelevolve.problem import parse_problem
from kernelevolve.selftest.runner import platform_of
from kernelevolve.settings import LANES, Lane, LaneName

SHARE, CHANCE = 0.05, 0.01
COMPARISONS = 10
SIMULATED: Mapping[LaneName, int] = {"screen": 1000, "accept": 200}
_DRIFT, _STAYS, _RAMP, _NOISE = 0.01, 0.98, 0.02, 0.01
_CALLS = 4
_SCALED = '''"""y = 1.5 x, 104 million numbers: 0.2 ms on an H200."""

import torch
import torch.nn as nn

COUNT = 104_000_000


class Model(nn.Module):
    def forward(self, x):
        return x * 1.5


def get_inputs():
    return [torch.rand(COUNT)]
'''


@dataclass(frozen=True)
class EqualArms:
    """What was claimed about arms that are equal.

    Attributes:
        device: that was measured; empty for a simulation.
        evidence: `measured`, or `simulated` where no kernel ran.
        claims: comparisons whose interval left 1 out; `verdicts` counts how they were judged.
        allowed: claims that a share of 5 % explains.
        half_widths: of the interval of each comparison, relative.
    """

    lane: LaneName
    device: str
    evidence: Literal["measured", "simulated"]
    comparisons: int
    claims: int
    verdicts: Mapping[str, int]
    allowed: int
    half_widths: tuple[float, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """No more claims than chance explains, and at least one comparison."""
        return self.comparisons > 0 and self.claims <= self.allowed

    @property
    def summary(self) -> str:
        """In one line."""
        wide = sorted(self.half_widths)[len(self.half_widths) // 2] if self.half_widths else math.nan
        faster_or_slower = sum(self.verdicts.get(v, 0) for v in (Verdict.OK_FASTER, Verdict.OK_SLOWER))
        return (
            f"A/A {self.lane}: {self.claims} of {self.comparisons} intervals leave 1 out (up to {self.allowed} by "
            f"chance at {SHARE:.0%}), {faster_or_slower} judged faster or slower, median half-width {wide:.2%}, "
            f"{self.evidence}{f' on {self.device}' if self.device else ', drift 1 %, ramp 2 %, noise 1 %'}"
        )


def allowed(comparisons: int, share: float = SHARE, chance: float = CHANCE) -> int:
    """The most claims that are no sign of too narrow intervals: more have a probability of at most `chance` where each
    comparison claims with probability `share`."""
    left = 1.0
    for claims in range(comparisons + 1):
        left -= math.comb(comparisons, claims) * share**claims * (1 - share) ** (comparisons - claims)
        if left <= chance:
            return claims
    return comparisons


def simulate(lane: Lane, comparisons: int, *, seed: int = 0) -> EqualArms:
    """Equal arms on a machine that drifts, through the design of a lane."""
    start, luck = time.monotonic(), random.Random(seed)
    blocks = Blocks(lane.blocks, lane.doublings, lane.most)
    timed = [_simulated(blocks, luck) for _ in range(comparisons)]
    return _counted(lane.name, "", "simulated", timed, start)


def _simulated(blocks: Blocks, luck: random.Random) -> Timed:
    level, burst = luck.gauss(0.0, _DRIFT), 0
    most = blocks.all * 16  # bursts of both arms, where nothing decides before

    def call(calls: int) -> Sequence[float]:
        nonlocal level, burst
        level = _STAYS * level + luck.gauss(0.0, math.sqrt(1 - _STAYS**2) * _DRIFT)
        burst += 1
        here = level + _RAMP * burst / most
        return [math.exp(here + luck.gauss(0.0, _NOISE)) for _ in range(calls)]

    arms: dict[str, Callable[[int], Sequence[float]]] = {CANDIDATE: call, "eager": call}
    plan = Plan(blocks, _CALLS, 2 * _CALLS)
    return time_arms(arms, workload="declared", platform="", choice={}, plan=plan, device="simulation")


def measure(device: str, comparisons: int = COMPARISONS, *, lane: Lane = LANES["screen"]) -> EqualArms:
    """The same operation as candidate and as baseline, by the way that every candidate goes.

    Args:
        device: torch's name of an accelerator, or `cpu` to try it: a figure of that means nothing.

    Raises:
        MissingDevice: it is not here.
        SeatLost, ProblemError: the machine failed.
    """
    start = time.monotonic()
    text = _SCALED if device != "cpu" else _SCALED.replace("104_000_000", "200_000")
    problem = parse_problem(text, None, name="equal_arms", suite="selftest", path="equal_arms.py")
    problem = replace(problem, baselines=("eager",), library_calls="allowed")
    source = text.replace("class Model(", "class ModelNew(")
    product = "this CPU" if device == "cpu" else platform_of(device)[1]
    cold = replace(lane, modes=("cold",), processes=1)
    with closing(Roles()) as roles, tempfile.TemporaryDirectory(prefix="kernelevolve-selftest-") as folder:
        seat = Device(device, product, full_cases=1)
        with closing(Bench(problem, roles, Path(folder))) as bench, seat.visit(bench) as visit:
            timed = []
            for _ in range(comparisons):
                try:
                    found = seat.time(bench, "declared", source, {}, lane=cold, visit=visit)
                finally:
                    seat.free()  # two processes have a ratio of their own that stays while they live
                timed.append(found.timed[0])
    return _counted(lane.name, product, "measured", timed, start)


def _counted(
    lane: LaneName, device: str, evidence: Literal["measured", "simulated"], timed: Sequence[Timed], start: float
) -> EqualArms:
    intervals = [(t.timing.speedup.low or math.nan, t.timing.speedup.high or math.nan) for t in timed]
    verdicts = [t.verdict.value for t in timed]
    return EqualArms(
        lane=lane,
        device=device,
        evidence=evidence,
        comparisons=len(timed),
        claims=sum(not low <= 1.0 <= high for low, high in intervals),
        verdicts={v: verdicts.count(v) for v in sorted(set(verdicts))},
        allowed=allowed(len(timed)),
        half_widths=tuple((high - low) / 2 for low, high in intervals),
        seconds=time.monotonic() - start,
    )


def run_aa(device: str = "none", comparisons: int | None = None) -> tuple[EqualArms, ...]:
    """Measures in the lane `screen` on a device; simulates the lanes where there is none.

    Args:
        comparisons: 10 on a device, and as many as take some seconds in a simulation, unless given.

    Raises:
        MissingDevice: the device is not here.
    """
    if device != "none":
        return (measure(device, comparisons or COMPARISONS),)
    return tuple(simulate(LANES[name], comparisons or some) for name, some in SIMULATED.items())
