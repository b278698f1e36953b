"""What a sealed process may use of the machine.

In: `Limits`. Out: those that the kernel holds for one process (`apply`), and for all processes of a child together what
they use now (`used`). Left to others: ending those that use more (`keeper`), and time (the host's clock).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_OWN_COUNT_SINCE = (5, 14)  # from then on RLIMIT_NPROC counts a user namespace by itself
THREADS = 8  # of one process on average: where the kernel counts, it counts threads
_PAGES = ("RssAnon", "RssShmem")
#: Of what works on the CPU alone. Who times a kernel on a device loses a time slice of some milliseconds whenever he is
#: scheduled late; beside busy processes of nice 5 that happened in 0.3 to 0.5 % of spans of 0.3 ms, beside 19 in none.
BACKGROUND = 19


@dataclass(frozen=True)
class Limits:
    """What a child may use; 0 = no limit.

    Attributes:
        memory_bytes: of memory, all its processes together; pages that forked processes share count for each.
        file_bytes: of one file.
        processes: at the same time.
        output_bytes: printed on stdout and stderr together.
        device: whether it will use an accelerator, whose driver reserves addresses that nobody ever touches: then
            memory is only watched, and not refused by the kernel as it is asked for.
        device_share: of an accelerator's memory that it may hold, with `device`; the rest is the judge's.
        nice: how far behind others it stands in line for processors, 0 to 19.
    """

    memory_bytes: int = 0
    file_bytes: int = 0
    processes: int = 256
    output_bytes: int = 1 << 30
    device: bool = False
    device_share: float = 0.75
    nice: int = 0


def apply(limits: Limits) -> None:
    """Sets what the kernel holds for this process and each that it starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(limits.nice)
    if limits.memory_bytes and not limits.device:
        _lower(resource.RLIMIT_DATA, limits.memory_bytes)
    if limits.file_bytes:
        _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    if limits.processes and _counts_alone():
        _lower(resource.RLIMIT_NPROC, THREADS * limits.processes)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _counts_alone() -> bool:
    """Whether RLIMIT_NPROC would count the processes of this user namespace only, and not all of the user's."""
    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    own = Path("/proc/self/uid_map").read_text().split()
    return release >= _OWN_COUNT_SINCE and own != ["0", "0", "4294967295"]


def used(pids: Iterable[int]) -> int:
    """Bytes of memory that these processes hold and that no file backs."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_PAGES))
    return total


def descendants(root: int) -> list[int]:
    """The processes below `root`, which is not one of them."""
    found, waiting = [], [root]
    while waiting:
        below = children(waiting.pop())
        found += below
        waiting += below
    return found


def children(pid: int) -> list[int]:
    """The processes that `pid` is the parent of."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        pass  # it ended meanwhile, and its children are somebody else's now
    return found
