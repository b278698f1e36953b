"""How much of a device's memory a worker holds, and its end where that is too much.

In: the process numbers of a worker, asked for anew each time. Out: a thread that calls `end` with a reason, once. Left
to others: ending (`roles`). NVML answers through `pynvml` of the package nvidia-ml-py; without it nothing is watched. A
worker that takes all of the device leaves the judge none, and the judge's failure would be nobody's fault.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Collection
from typing import Any

Held = Callable[[Collection[int]], float]
_LOOK_SECONDS = 0.1


@functools.cache
def held_by_nvml() -> Held | None:
    """The largest share of any device's memory that some processes hold; None where NVML cannot be asked."""
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

    def held(pids: Collection[int]) -> float:
        most = 0.0
        for handle, total in zip(handles, totals, strict=True):
            try:
                found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except nvml.NVMLError:
                continue  # a device that fell off the bus is the health probe's to find
            used = sum(int(p.usedGpuMemory or 0) for p in found if p.pid in pids)
            most = max(most, used / total)
        return most

    return held


class DeviceMemoryWatch:
    """Looks ten times a second until it is stopped.

    Args:
        pids: of the worker, now.
        share: most of a device's memory that they may hold.
        end: is told why, once.
    """

    def __init__(
        self, pids: Callable[[], Collection[int]], share: float, end: Callable[[str], None], held: Held
    ) -> None:
        self._pids, self._share, self._end, self._held = pids, share, end, held
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="device-memory", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            if (used := self._held(self._pids())) > self._share:
                self._end(f"out of memory: it holds {used:.0%} of a device's memory, of {self._share:.0%} that it may")
                return

    def stop(self) -> None:
        """Looks no more; from the watch's own thread, too."""
        self._stopped.set()
