"""Whether the times that a worker reports are the times that passed on this process's own clock.

In: for every burst of two arms how many calls, how long this process waited for it, and what the arm reports. Out: a
`Consistency`, and for short calls a `Sharp` one. Left to others: taking them (`session`), the verdict
(`TIMER_INCONSISTENT`).

Each block has bursts of n and of 2n calls. What a burst costs besides its calls (messages, waking up) is in both, so
the slope (wall(2n) - wall(n)) / n is what one call costs with its plumbing (emptying the cache, the busy wait, the copy
of the result); plumbing is the same code in both arms. So the difference of the arms' slopes must be the difference of
the reported times: the excess of the wall clock over the report may differ between the arms by 5 % of a call or 1 us,
beyond what noise explains (t at 99.9 %, one-sided), and by a fifth of the baseline's own excess: where the host cannot
submit as fast as the device works, as much of the plumbing no longer hides behind it.

For a call of a few microseconds that fifth is most of what is allowed. `sharpen` takes bursts in which it is not
needed: a busy wait goes before all calls, longer than submitting them takes by this process's own clock, so that the
device alone decides how long the rest takes. Such bursts have one call and as many as there are slots; of two bursts of
a kind that follow each other the one counts that was waited for less, since messages only ever come late. It goes on
until noise is as small as what is allowed, and accuses nobody before all its rounds are over. Who reports other times
in these bursts than in those that count is refused as well. A call that waits for the device cannot be submitted ahead
of it, and a host may be held up: a round in which an arm says so does not count, and after three the wider look has to
do. That is a claim, and by it whoever waits in his calls gets away with the wider look.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kernelevolve.evaluate.statistics import t_quantile

SHARE, LEAST_MS, PLUMBING = 0.05, 1e-3, 0.2
_CONFIDENCE = 0.998  # two-sided; what lies beyond it on one side has 0.1 %
ROUNDS_LEAST, ROUNDS_MOST = 4, 12
TWICE = 2  # bursts of a kind in a round
UNUSED_MOST = 2  # rounds that do not count
CALLS_LEAST = 6  # in a longer burst: with fewer, a slope says nothing
AHEAD, LEAD_MOST_MS = 1.2, 10.0  # the busy wait over what submitting took before, and the longest one
APART, APART_MS = 1.5, 0.01  # by what a report may differ between bursts that count and these, beyond the baseline's


@dataclass(frozen=True)
class Taken:
    """One burst, in milliseconds.

    Attributes:
        calls: how many.
        wall: that the host waited.
        reported: what the arm says that all calls took.
        waited: that the arm's process stood in line for a processor, by what the system counts.
    """

    calls: int
    wall: float
    reported: float
    waited: float = 0.0


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
    limit = _allowed([*candidate, *baseline])
    limit += PLUMBING * max(0.0, statistics.fmean(own)) if own else 0.0
    return _found(excess, limit)


def _allowed(blocks: Sequence[Sequence[Taken]]) -> float:
    reported = [t.reported / t.calls for block in blocks for t in block]
    return max(SHARE * statistics.median(reported), LEAST_MS) if reported else LEAST_MS


def _found(excess: Sequence[float], limit: float) -> Consistency:
    if len(excess) < 2:
        return Consistency(0.0, limit, 0.0, len(excess))
    noise = t_quantile(len(excess) - 1, _CONFIDENCE) * statistics.stdev(excess) / math.sqrt(len(excess))
    return Consistency(statistics.fmean(excess), limit, noise, len(excess))


def _excess(block: Sequence[Taken], of: Callable[[Sequence[float]], float] = statistics.fmean) -> float | None:
    """Milliseconds per call by which the wall clock's slope is above the reported one; None without two lengths.

    Args:
        of: what stands for several bursts of one length.
    """
    lengths = sorted({t.calls for t in block})
    if len(lengths) != 2:
        return None
    short, long = ([t.wall - t.reported for t in block if t.calls == n] for n in lengths)
    return (of(long) - of(short)) / (lengths[1] - lengths[0])


class Arm(Protocol):
    """One arm, as far as it is needed here: called with a number of calls it takes a burst of them.

    Attributes:
        blocks: what was taken; the last one is under way.
        lead: milliseconds of busy wait on the device before the calls of its next bursts.
        ahead: whether the calls of the last burst were submitted while it lasted, by what the arm says.
    """

    lead: float

    @property
    def ahead(self) -> bool: ...

    @property
    def blocks(self) -> Sequence[Sequence[Taken]]: ...

    def __call__(self, calls: int) -> object: ...


@dataclass(frozen=True)
class Sharp:
    """What the sharper look found.

    Attributes:
        found: the excess beyond what the device explains; None where it was not looked at, `why` says why.
        lead: milliseconds of busy wait before each burst.
        apart: what is wrong with the candidate's reports in themselves; empty for nothing.
    """

    found: Consistency | None
    lead: float = 0.0
    why: str = ""
    apart: str = ""

    @property
    def holds(self) -> bool:
        return not self.apart and (self.found is None or self.found.holds)

    def __str__(self) -> str:
        if self.found is None:
            return f"not looked at more sharply: {self.why}"
        told = f"; {self.apart}" if self.apart else ""
        return f"submitted ahead of the device ({self.lead:.3g} ms): {self.found}{told}"


def sharpen(candidate: Arm, baseline: Arm, longest: int, compare: Callable[[], None]) -> Sharp:
    """Takes bursts in which the device alone decides how long they take, round by round.

    Args:
        candidate, baseline: after their bursts that count.
        longest: calls that a burst may have.
        compare: called after each pair of bursts of both arms: what they gave is looked at, and the next block begins.
    """
    if longest < CALLS_LEAST:
        return Sharp(None, why=f"bursts have room for {longest} calls")
    counted = [_report(arm.blocks) for arm in (candidate, baseline)]
    slopes = [_slope(arm.blocks) for arm in (candidate, baseline)]
    if None in (*counted, *slopes):
        return Sharp(None, why="every burst has the same number of calls")
    lead = AHEAD * longest * max(s for s in slopes if s is not None)
    if not 0 < lead <= LEAD_MOST_MS:
        return Sharp(None, why=f"submitting {longest} calls may take {lead:.3g} ms")
    rounds: dict[str, list[list[Taken]]] = {"candidate": [], "baseline": []}
    found: Consistency | None = None
    late = ""
    try:
        candidate.lead = baseline.lead = lead
        for number in range(ROUNDS_MOST):
            arms = {"candidate": candidate, "baseline": baseline}
            late = _round(arms, longest, compare, rounds, swapped=bool(number % 2)) or late
            unused = number + 1 - len(rounds["candidate"])
            if unused > UNUSED_MOST:
                return Sharp(None, lead, why=f"{late} cannot be submitted ahead of the device")
            pairs = zip(rounds["candidate"], rounds["baseline"], strict=True)
            excess = [(_excess(a, min), _excess(b, min)) for a, b in pairs]
            limit = _allowed([*rounds["candidate"], *rounds["baseline"]])
            found = _found([a - b for a, b in excess if a is not None and b is not None], limit)
            if len(excess) >= ROUNDS_LEAST and found.holds and found.noise <= max(limit, LEAST_MS):
                break
    finally:
        candidate.lead = baseline.lead = 0.0
    return Sharp(found, lead, apart=_apart(counted, [_report(taken) for taken in rounds.values()]))


def _round(
    arms: Mapping[str, Arm],
    longest: int,
    compare: Callable[[], None],
    rounds: Mapping[str, list[list[Taken]]],
    *,
    swapped: bool,
) -> str:
    """Bursts of one call and of `longest`, each kind `TWICE` and in the order ABBA, appended to `rounds`.

    Returns:
        an arm that did not submit all calls in time, with which the round does not count; empty if there is none.
    """
    late = ""
    for taken in rounds.values():
        taken.append([])
    for turn in range(TWICE):
        order = list(arms) if (turn % 2 == 0) != swapped else list(arms)[::-1]
        for name in order:
            for calls in (1, longest):
                arms[name](calls)
                rounds[name][-1].append(arms[name].blocks[-1][-1])
                late = late if arms[name].ahead else name
        compare()
    if late:
        for taken in rounds.values():
            taken.pop()
    return late


def _slope(blocks: Sequence[Sequence[Taken]]) -> float | None:
    """Milliseconds that this process waits for one call more; None without two lengths."""
    lengths = sorted({t.calls for block in blocks for t in block})
    if len(lengths) != 2:
        return None
    short, long = (min(t.wall for block in blocks for t in block if t.calls == n) for n in lengths)
    return (long - short) / (lengths[1] - lengths[0])


def _report(blocks: Sequence[Sequence[Taken]]) -> float | None:
    """What an arm says that a call takes."""
    reported = [t.reported / t.calls for block in blocks for t in block if t.calls > 1]
    return statistics.median(reported) if reported else None


def _apart(counted: Sequence[float | None], sharp: Sequence[float | None]) -> str:
    """What is wrong where the candidate reports more in these bursts than in those that count; both are cold."""
    (mine, own), (now, own_now) = counted, sharp
    if mine is None or own is None or now is None or own_now is None or own <= 0:
        return ""
    most = APART * max(1.0, own_now / own) * mine + APART_MS
    if now <= most:
        return ""
    return (
        f"it reports {now * 1e3:.3g} us per call in these bursts and {mine * 1e3:.3g} us in those that count, the "
        f"baseline {own_now * 1e3:.3g} and {own * 1e3:.3g} us"
    )
