"""The few statistics that timing needs.

In: samples of two or more arms, block by block. Out: paired ratios with an interval, a verdict. Left to
others: taking the samples (`timing`). Block statistics and verdict limits follow the interleaved design: the ratio is
estimated from differences of log times inside a block, so that slow drift of clocks cancels.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from kernelevolve.evaluation import Verdict

FASTER, SLOWER = 1.01, 0.99


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t, by bisection of its distribution (exact for a whole number of degrees).

    The distribution is the finite sum of Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even), in theta =
    atan(t / sqrt(freedom)).
    """
    if freedom < 1:
        raise ValueError(f"at least two samples are needed for an interval, got {freedom + 1}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _inside(theta: float, freedom: int) -> float:
    """The probability that |t| is at most sqrt(freedom) tan(theta)."""
    cosine, sine = math.cos(theta), math.sin(theta)
    first = 3 if freedom % 2 else 2
    term = total = cosine if freedom % 2 else 1.0
    for k in range(first, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    if freedom == 1:
        return 2 * theta / math.pi
    return 2 / math.pi * (theta + sine * total) if freedom % 2 else sine * total


# Level of each look when the blocks are doubled between looks and the looks together may claim wrongly in 5 %: the
# constant boundary of S. Pocock, "Group sequential methods", Biometrika 64 (1977), for looks at 1, 2, 4, 8 times the
# information. For normal numbers it is 0.0294, 0.0208, 0.0159, by simulation of 4 million sequences; with t from
# six blocks on these would claim wrongly in 5.2 %, so they are stricter by a twentieth.
_LEVELS = {1: 0.05, 2: 0.028, 3: 0.0197, 4: 0.015}


def confidence_of(looks: int, candidates: int = 1) -> float:
    """The confidence of each interval when it is looked at up to `looks` times, blocks doubled in between, and
    `candidates` are measured that way (Bonferroni), so that a false claim is made in at most 5 % of such families.

    Raises:
        ValueError: more looks than were worked out.
    """
    if looks not in _LEVELS:
        raise ValueError(f"{looks} looks; levels are known for {', '.join(map(str, _LEVELS))}")
    return 1 - _LEVELS[looks] / max(1, candidates)


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; equal to the estimate where there is only one sample."""

    value: float
    low: float
    high: float


# Two processes with the same kernel differ by a time that stays while they live, whatever a call takes: over ten pairs
# of an A/A on an H200 the root mean square was 0.11 us at 20 us, 0.13 us at 200 us (benchmarks/results/aa_h200.json).
PROCESSES_MS, PROCESSES_FREEDOM = 1.2e-4, 9


_LARGEST = math.log(sys.float_info.max)


def apart(first_ms: float, second_ms: float) -> float:
    """The relative standard deviation of a ratio of two processes' times that no number of calls makes smaller."""
    return PROCESSES_MS * math.sqrt((first_ms**-2 + second_ms**-2) / 2)


def log_interval(logs: Sequence[float], confidence: float = 0.95, apart: float = 0.0) -> Interval:
    """exp of the mean of `logs`, with its t-interval.

    Args:
        apart: standard deviation of what all of them have in common; its own t-interval is added in quadrature.
    """
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(mean), math.exp(mean), math.exp(mean))
    half = t_quantile(len(logs) - 1, confidence) * statistics.stdev(logs) / math.sqrt(len(logs))
    if apart:
        half = math.hypot(half, t_quantile(PROCESSES_FREEDOM, confidence) * apart)
    return Interval(_exp(mean), _exp(mean - half), _exp(mean + half))


def _exp(exponent: float) -> float:
    """exp, at most the largest float: whatever arms report has an interval."""
    return math.exp(min(exponent, _LARGEST))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float], confidence: float = 0.95) -> Interval:
    """t(numerator) / t(denominator) from block times taken side by side.

    Raises:
        ValueError: different lengths, none at all, or a time that is not above zero.
    """
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"paired blocks needed, got {len(numerator)} and {len(denominator)}")
    if min(*numerator, *denominator) <= 0:
        raise ValueError("a block time is not above zero")
    return log_interval([math.log(a / b) for a, b in zip(numerator, denominator, strict=True)], confidence)


def judge_ratio(speedup: Interval) -> Verdict:
    """Faster, slower, same, or inconclusive, by the interval alone."""
    if speedup.low > FASTER:
        return Verdict.OK_FASTER
    if speedup.high < SLOWER:
        return Verdict.OK_SLOWER
    if speedup.low >= SLOWER and speedup.high <= FASTER:
        return Verdict.OK_SAME
    return Verdict.INCONCLUSIVE
