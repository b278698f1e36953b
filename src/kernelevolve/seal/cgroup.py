"""A control group for one child: memory and processes counted by the kernel, and all of them ended by one write.

In: limits, and the cgroup v2 file system. Out: a `Group`, where this process may make one. Left to others: machines
where it may not, where the keeper counts (`keeper`). Nothing of the machine's own groups is changed: a group is made
only below this process's own one, and only if that passes the memory and pids controllers on already.
The files: https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from kernelevolve.seal.limits import THREADS, Limits

_MOUNT = Path("/sys/fs/cgroup")
_NEEDED = {"memory", "pids"}
_EMPTYING_SECONDS = 2.0


@dataclass(frozen=True)
class Group:
    """One control group.

    Attributes:
        folder: its place in the cgroup file system.
    """

    folder: Path

    def join(self) -> None:
        """Moves this process into the group, and with it whatever it will start."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def end(self) -> None:
        """Ends every process in the group, and the group."""
        with contextlib.suppress(OSError):  # before Linux 5.14 there is no such file, and the keeper has ended them
            (self.folder / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + _EMPTYING_SECONDS
        while time.monotonic() < deadline:
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.005)  # its last process is on its way out
            else:
                return


def make(limits: Limits, name: str, *, mount: Path = _MOUNT, own: str | None = None) -> Group | None:
    """A new group with these limits; None where this process may not make one, or the controllers are not passed on.

    Args:
        name: of the group.
        mount: where cgroup v2 is mounted.
        own: this process's group; what the kernel says if None.
    """
    if own is None:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line[3:] for line in lines if line.startswith("0::")), "")
    parent = mount / own.lstrip("/")
    try:
        if not _NEEDED.issubset((parent / "cgroup.subtree_control").read_text().split()):
            return None
        folder = parent / name
        folder.mkdir()
    except OSError:
        return None
    group = Group(folder)
    wanted = {"pids.max": THREADS * limits.processes, "memory.max": limits.memory_bytes}
    try:
        for file, most in wanted.items():
            if most:
                (folder / file).write_text(str(most))
        with contextlib.suppress(FileNotFoundError):  # a machine without swap has no such file
            if limits.memory_bytes:
                (folder / "memory.swap.max").write_text("0")
    except OSError:
        group.end()
        return None
    return group
