"""What the driver says of the device while it measures: throttling, and who else is on it.

In: the index of an NVIDIA device, the process of the candidate. Out: why the blocks of a span of time should be
dropped, whether the candidate brought another process along, and what was not available.
Left to others: dropping (`timing`). Uses NVML through `pynvml` (package nvidia-ml-py) where that is installed; nothing
is measured worse without it, only known less of.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernelevolve.seal.limits import descendants

# Hardware slowdown, software thermal, hardware thermal, power brake; 0x4 (the software power cap) is ordinary work.
THROTTLED = 0x8 | 0x20 | 0x40 | 0x80
POWER_CAP = 0x4
_SECONDS = 0.1


class Watch:
    """Looks at one device ten times a second while it is open.

    Args:
        root: process of the candidate that is timed, above all others of it; 0 if there is none.

    Attributes:
        absent: why nothing is looked at; empty where it is.
        notes: what was seen and does not drop a block.
        beside: how many processes the candidate had on the device at the same time, at most. One is timed; a second
            can slow whatever it is compared with.
    """

    def __init__(self, index: int | None, root: int = 0) -> None:
        self.absent, self.notes, self.beside = "", set[str](), 0
        self._root = root
        self._seen: list[tuple[float, str]] = []
        self._mine: set[int] = set()  # processes on the device that were found to descend from this one
        self._stop = threading.Event()
        self._nvml: Any = None
        self._errors: tuple[type[BaseException], ...] = ()
        self._handle: Any = None
        if index is None:
            self.absent = "throttling and other processes not watched: no NVIDIA device"
            return
        try:
            self._nvml = importlib.import_module("pynvml")
            self._errors = (self._nvml.NVMLError,)
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByIndex(_physical(index))
        except ImportError:
            self.absent = "throttling and other processes not watched: nvidia-ml-py is not installed"
        except self._errors as error:
            self.absent = f"throttling and other processes not watched: NVML says {error}"

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        """Looks for the time of the context."""
        if self.absent:
            yield self
            return
        self._stop.clear()
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def why_drop(self, start: float, end: float) -> str:
        """Why what was measured between two `time.monotonic()` should not count; empty if nothing speaks against it."""
        if not self.absent:
            self._once()
        return next((why for when, why in self._seen if start <= when <= end + _SECONDS), "")

    def why_again(self) -> str:
        """The driver knows of nothing else."""
        return ""

    def _look(self) -> None:
        while not self._stop.wait(_SECONDS):
            self._once()

    def _once(self) -> None:
        now, found = time.monotonic(), ""
        try:
            bits = int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
            pids = {int(p.pid) for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        except self._errors as error:
            self.notes.add(f"NVML says {error}")
            return
        if bits & POWER_CAP:
            self.notes.add("under the software power cap")
        if bits & THROTTLED:
            found = f"clocks throttled (0x{bits & THROTTLED:x})"
        if self._root:
            self.beside = max(self.beside, len(pids & {self._root, *descendants(self._root)}))
        self._mine |= {pid for pid in pids - self._mine if _ours(pid)}
        if foreign := sorted(pids - self._mine):
            found = f"process {foreign[0]} is on the device, too"
        if found:
            self._seen.append((now, found))


def _physical(index: int) -> int:
    """NVML counts devices without `CUDA_VISIBLE_DEVICES`."""
    visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return int(visible[index]) if index < len(visible) and visible[index].strip().isdigit() else index


def _ours(pid: int) -> bool:
    """Whether a process is this one or descends from it; one that is gone or cannot be read is taken for ours."""
    mine = os.getpid()
    while pid > 1:
        if pid == mine:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError, ValueError):
            return True
    return False
