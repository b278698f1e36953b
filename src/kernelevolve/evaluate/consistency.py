"""Whether the times that a worker reports are the times that passed on this process's own clock.

In: for every burst of two arms how many calls, how long this process waited for it, and what the arm reports. Out: a
`Consistency`. Left to others: taking them (`measure`), the verdict (`TIMER_INCONSISTENT`).

Each block has bursts of n and of 2n calls. What a burst costs besides its calls (messages, waking up) is in both, so
the slope (wall(2n) - wall(n)) / n is what one call costs with its plumbing (emptying the cache, the busy wait, the copy
of the result); plumbing is the same code in both arms. So the difference of the arms' slopes must be the difference of
the reported times: the excess of the wall clock over the report may differ between the arms by 5 % of a call or 1 us,
beyond what noise explains (t at 99.9 %, one-sided), and by a fifth of the baseline's own excess: where the host cannot
submit as fast as the device works, as much of the plumbing no longer hides behind it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kernelevolve.evaluate.statistics import t_quantile

SHARE, LEAST_MS, PLUMBING = 0.05, 1e-3, 0.2
_CONFIDENCE = 0.998  # two-sided; what lies beyond it on one side has 0.1 %


@dataclass(frozen=True)
class Taken:
    """One burst: its number of calls, milliseconds that the host waited, milliseconds that the arm reports in all."""

    calls: int
    wall: float
    reported: float


@dataclass(frozen=True)
class Consistency:
    """What came out, in milliseconds per call.

    Attributes:
        excess: by how much the wall clock's difference between the arms is above the reported one.
        limit: the most that it may be without noise.
        noise: what noise explains.
        blocks: that were used; 0 where no slope could be taken.
    """

    excess: float
    limit: float
    noise: float
    blocks: int

    @property
    def holds(self) -> bool:
        return self.blocks < 2 or self.excess - self.noise <= self.limit

    def __str__(self) -> str:
        if self.blocks < 2:
            return "no slope: every burst has the same number of calls"
        return (
            f"wall clock minus reported time differs between the arms by {self.excess * 1e3:.3g} us per call, "
            f"allowed {self.limit * 1e3:.3g} us beyond noise of {self.noise * 1e3:.3g} us, {self.blocks} blocks"
        )


def consistency(candidate: Sequence[Sequence[Taken]], baseline: Sequence[Sequence[Taken]]) -> Consistency:
    """Compares the two arms, block by block.

    Args:
        candidate, baseline: the bursts of each block, of two different lengths.
    """
    pairs = [(_excess(a), _excess(b)) for a, b in zip(candidate, baseline, strict=True)]
    excess = [a - b for a, b in pairs if a is not None and b is not None]
    own = [b for _, b in pairs if b is not None]
    reported = [t.reported / t.calls for block in (*candidate, *baseline) for t in block]
    limit = max(SHARE * statistics.median(reported), LEAST_MS) if reported else LEAST_MS
    limit += PLUMBING * max(0.0, statistics.fmean(own)) if own else 0.0
    if len(excess) < 2:
        return Consistency(0.0, limit, 0.0, len(excess))
    noise = t_quantile(len(excess) - 1, _CONFIDENCE) * statistics.stdev(excess) / math.sqrt(len(excess))
    return Consistency(statistics.fmean(excess), limit, noise, len(excess))


def _excess(block: Sequence[Taken]) -> float | None:
    """Milliseconds per call by which the wall clock's slope is above the reported one; None without two lengths."""
    lengths = sorted({t.calls for t in block})
    if len(lengths) != 2:
        return None
    short, long = ([t.wall - t.reported for t in block if t.calls == n] for n in lengths)
    return (statistics.fmean(long) - statistics.fmean(short)) / (lengths[1] - lengths[0])
