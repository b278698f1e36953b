"""Which process owns a run, and whether it still lives.

In: this process, or a line of a lease. Out: an Owner. Left to others: what to do about it (`store`).

A process number alone lies: it is reused after a while, after a reboot, and in another container. So an owner is known
by its start time, boot and process namespace too; where these differ from ours, nothing can be said about it from here.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        started: clock ticks between boot and the start of the process (/proc/PID/stat, field 22).
        boot: the kernel's boot id.
        namespace: the process namespace in which `pid` counts, e.g. `pid:[4026531836]`.
    """

    pid: int
    host: str
    started: int
    boot: str
    namespace: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def alive(self) -> bool | None:
        """Whether the process runs; None where that cannot be seen from here (another host or container)."""
        here = this_process()
        if self.host != here.host:
            return None
        if self.boot != here.boot:
            return False
        if self.namespace != here.namespace:
            return None
        return _started(self.pid) == self.started


def this_process() -> Owner:
    """The Owner that stands for the calling process."""
    pid = os.getpid()
    started = _started(pid)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Owner(pid, socket.gethostname(), -1 if started is None else started, boot, os.readlink("/proc/self/ns/pid"))


def _started(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in parentheses and may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    dead = fields[0] in ("Z", "X")
    return None if dead else int(fields[19])
