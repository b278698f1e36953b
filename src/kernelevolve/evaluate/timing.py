"""The time rung: candidate and baselines interleaved, an interval on the ratio.

In: a candidate at a choice, one workload at full size, arms that time bursts of calls. Out: a `Timing`, the raw samples
that it was made of, and the verdict that its interval allows. Left to others: the clock on the device (`tensors.clock`,
in the worker and in the judge's baseline), comparing what the calls gave (`measure`).

The arms are processes of their own, and this process hands out the turn, so only one of them submits work. A block is
four bursts of each arm, ABBAABBA and BAABBAAB in turn, so what drifts slowly cancels inside a block; half of the
bursts are twice as long as the others, which is what the cross-check of the clock needs (`consistency`). The statistic
of a burst is its median; where the calls of a burst differ so much that its mean says something else, the mean: a
candidate that does the work of several calls in one of them gains nothing. That of a block is the mean of the
logarithms of its bursts, the estimate the mean over blocks of the difference. The interval is looked at after 1, 2 and
4 times the first blocks, or as many as there are at most, each time at a level at which all looks together claim a
difference of equal arms in at most 5 %.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kernelevolve.candidate import Choice
from kernelevolve.evaluate.statistics import Interval, apart, confidence_of, judge_ratio, log_interval
from kernelevolve.evaluation import Evidence, Figure, Samples, Timing, Verdict

Burst = Callable[[int], Sequence[float]]  # number of calls -> milliseconds of each
Statistic = Callable[[Sequence[float]], float]
CANDIDATE = "candidate"
BURSTS = 4  # of each arm in a block
DROPPED = 0.2  # share of blocks beyond which nothing is said
AGAIN = 4  # of so many blocks one that was dropped is taken again
UNEVEN = 1.03  # by how much more than the baselines' a candidate's mean may be above its median
_PILOT = 3
_MODES = {"cold": "cold L2", "hot": "inputs just read", "burst": "back to back, warm L2", "graph": "cold L2, replayed"}


@dataclass(frozen=True)
class Blocks:
    """How long to measure: blocks at first, how often to double them while the interval says nothing, and how many at
    most (0 for as many as that gives)."""

    count: int = 12
    doublings: int = 2
    most: int = 0

    def by(self, look: int) -> int:
        """Blocks that are done at look 0, 1, ..."""
        return min(self.count << look, self.most or math.inf)  # type: ignore[return-value]

    @property
    def all(self) -> int:
        """Blocks in all where no look decides."""
        return self.by(self.doublings)


@dataclass(frozen=True)
class Timed:
    """One workload's times, the raw samples behind them, what they allow to say, and how many blocks were dropped."""

    timing: Timing
    samples: Samples
    verdict: Verdict
    dropped: str = ""


class Spans(Protocol):
    """What speaks against counting what was measured between two `time.monotonic()`."""

    def why_drop(self, start: float, end: float) -> str: ...

    def why_again(self) -> str:
        """What makes it better to take the block that was taken last once more, where few were so far."""
        ...


class Undisturbed:
    """Nothing is watched, so nothing is dropped."""

    def why_drop(self, start: float, end: float) -> str:
        return ""

    def why_again(self) -> str:
        return ""


def calls_per_burst(milliseconds: float, *, short: bool = False) -> int:
    """Timed calls in a short burst, from the baseline's time and never the candidate's; a long one has twice as many,
    so that the mean is 6 below 1 ms, 3 below 10 ms (2 ms where short ones do) and 1.5 from there on."""
    return 4 if milliseconds < 1 else 2 if milliseconds < (2 if short else 10) else 1


def order_of(block: int, arms: Sequence[str], calls: int, longer: int) -> list[tuple[str, int]]:
    """The bursts of a block: ABBAABBA or BAABBAAB, the first or the second half of them the longer ones."""
    there, back = list(arms), list(reversed(arms))
    one, two = (there, back) if block % 2 == 0 else (back, there)
    first, second = (calls, longer) if block // 2 % 2 == 0 else (longer, calls)
    return [*((name, first) for name in (*one, *two)), *((name, second) for name in (*one, *two))]


def interleave(arms: Mapping[str, Burst], block: int, calls: int, longer: int) -> dict[str, list[list[float]]]:
    """The bursts of one block, in its order."""
    samples: dict[str, list[list[float]]] = {name: [] for name in arms}
    for name, count in order_of(block, list(arms), calls, longer):
        samples[name].append([float(t) for t in arms[name](count)])
    return samples


@dataclass(frozen=True)
class Plan:
    """How a workload is timed.

    Attributes:
        blocks: how many.
        calls, longer: of the two kinds of bursts; 0 = from the baselines' time.
        mode: `cold`, `hot`, `burst` or `graph`; never mixed.
        candidates: how many are measured of which the best will be taken: the level is divided by it.
    """

    blocks: Blocks = Blocks()
    calls: int = 0
    longer: int = 0
    mode: str = "cold"
    candidates: int = 1


def _nothing(block: int) -> None:
    """Before and after a block there is nothing to do."""


def time_arms(
    arms: Mapping[str, Burst],
    *,
    workload: str,
    platform: str,
    choice: Mapping[str, Choice],
    plan: Blocks | Plan,
    device: str,
    before: Callable[[int], None] = _nothing,
    after: Callable[[int], None] = _nothing,
    watch: Spans = Undisturbed(),  # noqa: B008
) -> Timed:
    """Measures until the interval decides or the doublings are spent.

    Args:
        arms: `candidate` and each baseline by name, all warmed.
        device: name of the accelerator, for the figures' `how`.
        before: called with each block's number before its first burst.
        after: called with each block's number when its bursts are done: what they gave is compared then.
        watch: says which blocks do not count, and which are better taken again.
    """
    plan = Plan(plan) if isinstance(plan, Blocks) else plan
    baselines = [name for name in arms if name != CANDIDATE]
    calls = plan.calls or calls_per_burst(min(pilot(arms).values()))
    longer = plan.longer or 2 * calls
    samples: dict[str, list[list[list[float]]]] = {name: [] for name in arms}
    dropped: list[str] = []
    done = 0
    confidence = confidence_of(plan.blocks.doublings + 1, plan.candidates)
    for look in range(plan.blocks.doublings + 1):
        asked = plan.blocks.by(look)
        while done < asked + min(len(dropped), asked // AGAIN):
            before(done)
            start = time.monotonic()
            taken = interleave(arms, done, calls, longer)
            why = watch.why_drop(start, time.monotonic())
            if not why and len(dropped) < asked // AGAIN:
                why = watch.why_again()
            after(done)
            done += 1
            if why:
                dropped.append(why)
                continue
            for name, bursts in taken.items():
                samples[name].append(bursts)
        if not samples[CANDIDATE]:
            break
        statistic = statistic_for(samples)
        ratio, against = ratio_of(samples, baselines, confidence, statistic)
        verdict = judge_ratio(ratio)
        if verdict is not Verdict.INCONCLUSIVE:
            break
    if not samples[CANDIDATE]:
        raise NothingCounts(f"all {done} blocks were dropped: {dropped[0]}")
    if len(dropped) > DROPPED * done:
        verdict = Verdict.INCONCLUSIVE
    count = len(samples[CANDIDATE])
    kinds = f"{BURSTS} bursts ({calls} or {longer} calls)"
    name = "median" if statistic is statistics.median else "mean, because the candidate's calls differ within a burst"
    how = f"{device}: {_MODES[plan.mode]}, {count} interleaved blocks of {kinds}, {name}"
    if dropped:
        how += f"; {len(dropped)} of {done} blocks dropped ({dropped[0]})"
    figures = {name: _figure(blocks, how, statistic) for name, blocks in samples.items()}
    timing = Timing(
        workload=workload,
        platform=platform,
        candidate=figures[CANDIDATE],
        baselines={name: figures[name] for name in baselines},
        against=against,
        speedup=_speedup(ratio, f"{how}, paired by block, {confidence:.4g} per look"),
        knobs=dict(choice),
        mode=plan.mode,
    )
    raw = {name: tuple(tuple(b) for block in blocks for b in block) for name, blocks in samples.items()}
    return Timed(timing, Samples(workload, platform, "ms", raw, plan.mode, BURSTS), verdict, "; ".join(set(dropped)))


class NothingCounts(Exception):
    """Every block was disturbed: nothing can be said of the time."""


def pilot(arms: Mapping[str, Burst], rounds: int = 1) -> dict[str, float]:
    """Milliseconds of a call of each baseline, from short bursts in turn."""
    taken: dict[str, list[float]] = {name: [] for name in arms if name != CANDIDATE}
    for _ in range(rounds):
        for name, times in taken.items():
            times += arms[name](_PILOT)
    return {name: statistics.median(times) for name, times in taken.items()}


def unevenness(blocks: Sequence[Sequence[Sequence[float]]]) -> float:
    """All calls together over what they would be if each took its burst's median."""
    bursts = [burst for block in blocks for burst in block]
    return sum(map(sum, bursts)) / sum(len(burst) * statistics.median(burst) for burst in bursts)


def statistic_for(samples: Mapping[str, Sequence[Sequence[Sequence[float]]]]) -> Statistic:
    """The median, unless the candidate's calls differ within bursts more than any baseline's do: then the mean."""
    found = {name: unevenness(blocks) for name, blocks in samples.items()}
    usual = max(value for name, value in found.items() if name != CANDIDATE)
    return statistics.fmean if found[CANDIDATE] > UNEVEN * usual else statistics.median


def block_logs(blocks: Sequence[Sequence[Sequence[float]]], statistic: Statistic = statistics.median) -> list[float]:
    """The statistic of each block: the mean over its bursts of the logarithm of the burst's own.

    Raises:
        ValueError: a time that is not above zero.
    """
    logs = []
    for bursts in blocks:
        found = [statistic(burst) for burst in bursts]
        if min(found) <= 0:
            raise ValueError("a burst's time is not above zero")
        logs.append(statistics.fmean(map(math.log, found)))
    return logs


def ratio_of(
    samples: Mapping[str, Sequence[Sequence[Sequence[float]]]],
    baselines: Sequence[str],
    confidence: float = 0.95,
    statistic: Statistic = statistics.median,
) -> tuple[Interval, str]:
    """The fastest baseline's time over the candidate's, from the blocks of each arm; and that baseline's name."""
    logs = {name: block_logs(blocks, statistic) for name, blocks in samples.items()}
    against = min(baselines, key=lambda name: statistics.median(logs[name]))
    differences = [a - b for a, b in zip(logs[against], logs[CANDIDATE], strict=True)]
    two = (math.exp(statistics.fmean(logs[name])) for name in (against, CANDIDATE))
    return log_interval(differences, confidence, apart(*two)), against


def _figure(blocks: Sequence[Sequence[Sequence[float]]], how: str, statistic: Statistic) -> Figure:
    interval = log_interval(block_logs(blocks, statistic))
    found = [statistic(burst) for bursts in blocks for burst in bursts]
    return Figure(statistics.median(found), "ms", Evidence.MEASURED, how, interval.low, interval.high)


def _speedup(ratio: Interval, how: str) -> Figure:
    return Figure(ratio.value, "x", Evidence.MEASURED, how, ratio.low, ratio.high)
