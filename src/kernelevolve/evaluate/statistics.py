"""The few statistics that timing needs.

In: samples of two or more arms, block by block. Out: medians, paired ratios with a 95 % interval, a verdict. Left to
others: taking the samples (`timing`). Block statistics and verdict limits follow the interleaved design: the ratio is
estimated from differences of log times inside a block, so that slow drift of clocks cancels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kernelevolve.evaluation import Verdict

FASTER, SLOWER = 1.01, 0.99


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t.

    Cornish-Fisher expansion of the normal quantile in 1/freedom (Abramowitz and Stegun 26.7.5), exact for one and two
    degrees of freedom; the error is below 0.3 % from three on.
    """
    if freedom < 1:
        raise ValueError(f"at least two samples are needed for an interval, got {freedom + 1}")
    p = 0.5 + confidence / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        a = 2 * p - 1
        return a * math.sqrt(2 / (1 - a * a))
    z = statistics.NormalDist().inv_cdf(p)
    n = freedom
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / n + g2 / n**2 + g3 / n**3 + g4 / n**4


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; equal to the estimate where there is only one sample."""

    value: float
    low: float
    high: float


def log_interval(logs: Sequence[float]) -> Interval:
    """exp of the mean of `logs`, with its t-interval."""
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(mean), math.exp(mean), math.exp(mean))
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """t(numerator) / t(denominator) from block times taken side by side.

    Raises:
        ValueError: different lengths, none at all, or a time that is not above zero.
    """
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"paired blocks needed, got {len(numerator)} and {len(denominator)}")
    if min(*numerator, *denominator) <= 0:
        raise ValueError("a block time is not above zero")
    return log_interval([math.log(a / b) for a, b in zip(numerator, denominator, strict=True)])


def judge_ratio(speedup: Interval) -> Verdict:
    """Faster, slower, same, or inconclusive, by the interval alone."""
    if speedup.low > FASTER:
        return Verdict.OK_FASTER
    if speedup.high < SLOWER:
        return Verdict.OK_SLOWER
    if speedup.low >= SLOWER and speedup.high <= FASTER:
        return Verdict.OK_SAME
    return Verdict.INCONCLUSIVE
