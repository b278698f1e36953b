"""How much of a device's memory each worker holds, and its end where that is too much.

In: the process numbers of workers, asked for anew each time. Out: a thread that calls `end` with a reason, once for
each. Left to others: ending (`roles`). NVML answers through `pynvml` of the package nvidia-ml-py; without it nothing is
watched. A worker that takes all of the device leaves the judge none, and the judge's failure would be nobody's fault.

One question serves all workers: the driver answers it under a lock that whoever opens or allocates something on the
device waits for.
"""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: For each device, the share of its memory that each process holds.
Shares = Callable[[], Sequence[Mapping[int, float]]]
_LOOK_SECONDS = 0.1


@functools.cache
def shares_by_nvml() -> Shares | None:
    """What NVML says of all devices; None where it cannot be asked."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        totals = [int(nvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles]
    except (nvml.NVMLError, OSError):
        return None

    def shares() -> Sequence[Mapping[int, float]]:
        found: list[dict[int, float]] = []
        for handle, total in zip(handles, totals, strict=True):
            try:
                running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except nvml.NVMLError:
                continue  # a device that fell off the bus is the health probe's to find
            found.append({int(p.pid): int(p.usedGpuMemory or 0) / total for p in running})
        return found

    return shares


@dataclass(frozen=True, eq=False)
class Watched:
    """A worker: its processes as of now, the most of a device's memory that they may hold, and who is told why not."""

    pids: Callable[[], Collection[int]]
    share: float
    end: Callable[[str], None]


class DeviceMemoryWatch:
    """Looks at all workers ten times a second, as long as there are any; thread-safe.

    Args:
        shares: what is on the devices.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lock = threading.Lock()
        self._watched: set[Watched] = set()
        self._thread: threading.Thread | None = None

    def add(self, worker: Watched) -> None:
        """Looks at this one, too, until it was ended here or is removed."""
        with self._lock:
            self._watched.add(worker)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="device-memory", daemon=True)
                self._thread.start()

    def remove(self, worker: Watched) -> None:
        """Looks at it no more; from the watch's own thread, too."""
        with self._lock:
            self._watched.discard(worker)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                watched = tuple(self._watched)
                if not watched:
                    self._thread = None
                    return
            devices = [held for held in self._shares() if held]
            for worker in watched if devices else ():
                pids = worker.pids()
                used = max(sum(held.get(pid, 0.0) for pid in pids) for held in devices)
                if used > worker.share:
                    self.remove(worker)
                    worker.end(
                        f"out of memory: it holds {used:.0%} of a device's memory, of {worker.share:.0%} that it may"
                    )


@functools.cache
def watch_of(shares: Shares) -> DeviceMemoryWatch:
    """The one watch of this process for what `shares` says."""
    return DeviceMemoryWatch(shares)
