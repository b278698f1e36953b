"""Bursts that took long because their process stood in line for a processor, and not because of the kernel.

In: the bursts of a block, with how long, as the system counts, each process waited for a processor meanwhile. Out: why
the block should be taken again. Left to others: dropping (`timing`), counting (`arms`).

A call of several launches is submitted by Python. Where more processes want to run than there are processors, that
stops for a time slice of some milliseconds, the device runs dry, and its clock goes on. Whether that was so is not the
arm's to say: it is read from outside, and it has to explain most of what a burst is longer by than its neighbours. A
process can make itself wait: of four blocks only one is taken again (`timing.AGAIN`), the others count as they are.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kernelevolve.evaluate.consistency import Taken
from kernelevolve.evaluate.timing import Spans
from kernelevolve.seal.limits import descendants

#: By how much of its neighbours' time a burst has to be longer before anybody asks why.
LONGER = 0.05
#: How much of what it is longer by has to have been waited for a processor.
EXPLAINED = 0.5


class Arm(Protocol):
    """An arm, by its bursts so far."""

    @property
    def blocks(self) -> Sequence[Sequence[Taken]]: ...


class Queue:
    """How long the processes below and at `root`, as they are now, have stood in line for a processor.

    Counted for the first thread of each: the one that calls a candidate. Where the system does not tell (Linux without
    scheduling statistics), nothing is ever waited.
    """

    def __init__(self, root: int) -> None:
        self._files = [Path(f"/proc/{pid}/schedstat") for pid in (root, *descendants(root))]

    def __call__(self) -> float:
        """Milliseconds in all."""
        return sum(map(_waited, self._files))


def _waited(file: Path) -> float:
    try:
        return int(file.read_text().split()[1]) / 1e6
    except (OSError, IndexError, ValueError):  # it ended, or the system does not count
        return 0.0


def stalled(bursts: Iterable[Taken]) -> float:
    """Milliseconds by which one burst is longer than the others, of those that waiting explains; 0 if there is none."""
    found = list(bursts)
    usual = statistics.median(taken.reported / taken.calls for taken in found)
    longer = [(taken.reported - taken.calls * usual, taken) for taken in found]
    explained = (
        excess
        for excess, taken in longer
        if excess > LONGER * taken.calls * usual and taken.waited >= EXPLAINED * excess
    )
    return max(explained, default=0.0)


class Stalls:
    """Would have blocks taken again in which a process stood in line for a processor; drops those that `others` do."""

    def __init__(self, arms: Mapping[str, Arm], others: Spans) -> None:
        self._arms, self._others = arms, others

    def why_drop(self, start: float, end: float) -> str:
        """What the others say."""
        return self._others.why_drop(start, end)

    def why_again(self) -> str:
        """Of the block that was taken last, the first arm's that was stalled."""
        for name, arm in self._arms.items():
            if arm.blocks[-1] and (lost := stalled(arm.blocks[-1])):
                return f"the {name}'s process waited for a processor, which made a burst {lost:.2g} ms longer"
        return ""
