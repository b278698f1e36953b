"""The time rung: candidate and baselines interleaved, cold cache, an interval on the ratio.

In: a candidate at a choice, one workload at full size, a device. Out: a `Timing`, the raw samples that it was made of,
and the verdict that its interval allows. Left to others: the clock on the device (`tensors.clock`, in the worker and in
the judge's baseline).

The arms are processes of their own, and this process hands out the turn, so only one of them submits work. A block is
one burst of each arm in an order that alternates (A B C, C B A, ...); what drifts slowly cancels inside a block.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kernelevolve.candidate import Choice
from kernelevolve.evaluate.statistics import Interval, judge_ratio, log_interval, paired_ratio
from kernelevolve.evaluation import Evidence, Figure, Samples, Timing, Verdict

Burst = Callable[[int], Sequence[float]]  # number of calls -> milliseconds of each
CANDIDATE = "candidate"


@dataclass(frozen=True)
class Blocks:
    """How long to measure: blocks at first, and how often to double them while the interval says nothing."""

    count: int = 12
    doublings: int = 2


@dataclass(frozen=True)
class Timed:
    """One workload's times, the raw samples behind them, and what they allow to say."""

    timing: Timing
    samples: Samples
    verdict: Verdict


def calls_per_burst(milliseconds: float) -> int:
    """Timed calls in a burst, from the baseline's time and never the candidate's."""
    return 8 if milliseconds < 1 else 4 if milliseconds < 10 else 1


def interleave(arms: Mapping[str, Burst], blocks: int, calls: int) -> dict[str, list[list[float]]]:
    """Bursts of every arm, block by block, in alternating order."""
    samples: dict[str, list[list[float]]] = {name: [] for name in arms}
    for block in range(blocks):
        order = list(arms) if block % 2 == 0 else list(reversed(list(arms)))
        for name in order:
            samples[name].append([float(t) for t in arms[name](calls)])
    return samples


def time_arms(
    arms: Mapping[str, Burst], *, workload: str, platform: str, choice: Mapping[str, Choice], plan: Blocks, device: str
) -> Timed:
    """Measures until the interval decides or the doublings are spent.

    Args:
        arms: `candidate` and each baseline by name, all warmed.
        device: name of the accelerator, for the figures' `how`.
    """
    baselines = [name for name in arms if name != CANDIDATE]
    first = {name: statistics.median(arms[name](3)) for name in baselines}
    calls = calls_per_burst(min(first.values()))
    samples: dict[str, list[list[float]]] = {name: [] for name in arms}
    blocks = plan.count
    for _ in range(plan.doublings + 1):
        for name, taken in interleave(arms, blocks, calls).items():
            samples[name] += taken
        medians = {name: [statistics.median(burst) for burst in taken] for name, taken in samples.items()}
        against = min(baselines, key=lambda name: statistics.median(medians[name]))
        ratio = paired_ratio(medians[against], medians[CANDIDATE])
        verdict = judge_ratio(ratio)
        if verdict is not Verdict.INCONCLUSIVE:
            break
        blocks = len(medians[CANDIDATE])
    count = len(medians[CANDIDATE])
    how = f"{device}: cold L2, {count} interleaved blocks of {calls}, median"
    figures = {name: _figure(taken, how) for name, taken in medians.items()}
    timing = Timing(
        workload=workload,
        platform=platform,
        candidate=figures[CANDIDATE],
        baselines={name: figures[name] for name in baselines},
        against=against,
        speedup=_speedup(ratio, how),
        knobs=dict(choice),
    )
    raw = {name: tuple(tuple(burst) for burst in taken) for name, taken in samples.items()}
    return Timed(timing, Samples(workload, platform, "ms", raw), verdict)


def _figure(medians: Sequence[float], how: str) -> Figure:
    interval = log_interval([math.log(m) for m in medians])
    return Figure(statistics.median(medians), "ms", Evidence.MEASURED, how, interval.low, interval.high)


def _speedup(ratio: Interval, how: str) -> Figure:
    return Figure(ratio.value, "x", Evidence.MEASURED, f"{how}, paired by block", ratio.low, ratio.high)
