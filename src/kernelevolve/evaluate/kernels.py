"""The guard `kernels`: how many kernels a call launches and how long they keep the device busy, by a second instrument.

In: a worker that is warm, the cold time that was measured with events. Out: a Guard; `Failed` where the two contradict
each other. Left to others: looking (`tensors.kernels`).

What lies inside a call's two events keeps the device busy no longer than they are apart; kernels beside each other
count once. The process that holds the candidate says both, so this finds clocks that were bent in one place only.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kernelevolve.evaluate.asking import Failed
from kernelevolve.evaluate.graphs import ENDED
from kernelevolve.evaluation import Guard, Verdict
from kernelevolve.wire import Message

GUARD = "kernels"
CALLS = 5
SHARE = 0.02  # above the time by events that is said
# Above it that convicts: a device that was idle before a profiled call may run at another clock.
MOST, MOST_US = 1.5, 20.0
Ask = Callable[[str, Mapping[str, Any]], Message]


def busy(spans: Sequence[Sequence[float]]) -> float:
    """How long at least one of the spans was under way."""
    total, until = 0.0, float("-inf")
    for start, end in sorted((float(a), float(b)) for a, b in spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def counted(ask: Ask, workload: str, milliseconds: float) -> Guard:
    """Counts the kernels of some calls and compares how long they take with the cold time.

    Raises:
        Failed: `TIMER_INCONSISTENT`, where they take far longer than the call was said to.
    """
    try:
        body = ask("kernels", {"calls": CALLS}).body
    except Failed as failed:
        if failed.verdict not in ENDED:
            raise
        return Guard(GUARD, "not run", f"{workload}: {failed}")
    if why := str(body["why"]):
        return Guard(GUARD, "not run", f"{workload}: {why}")
    counts = [len(call) for call in body["spans"]]
    took = statistics.median(busy(call) for call in body["spans"])
    number = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}, not constant,"
    by_events = milliseconds * 1e3
    said = f"{workload}: {number} on the device per call, busy for {took:.4g} us of {by_events:.4g} us by events"
    if took > MOST * by_events + MOST_US:
        raise Failed(Verdict.TIMER_INCONSISTENT, said, artefact={"guard": GUARD, "statistic": "busy", "value": took})
    if took > (1 + SHARE) * by_events:
        said += f", {took / by_events - 1:.0%} more"
    return Guard(GUARD, "held", said)
