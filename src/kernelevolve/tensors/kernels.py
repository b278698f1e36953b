"""What runs on the device during a call, as CUPTI sees it through torch's profiler: a second instrument beside events.

In: a function, a ring that is warm. Out: for each call the spans of its kernels and copies. Left to others: what they
mean (`evaluate.kernels`). In the process that holds a candidate it is a claim like the times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from kernelevolve.tensors.ring import Ring

Span = tuple[float, float]  # microseconds, begin and end
Record = Callable[[Callable[[], Any]], list[Span]]


def spans_of(function: Callable[..., Any], ring: Ring, calls: int, record: Record | None = None) -> list[list[Span]]:
    """The spans of `calls` calls on as many slots, each on an empty cache; of every slot once at most.

    Args:
        record: runs something and gives its spans on the device; torch's profiler if None.

    Raises:
        RuntimeError: there is nothing to see: no device, or the profiler cannot start here.
    """
    if record is None and not ring.cuda:
        raise RuntimeError("there is no device")
    look = record or _profiled
    look(partial(function, *ring.slots[0]))  # the profiler sets itself up
    found = []
    for arguments in ring.slots[:calls]:
        ring.chill()
        ring.wait()
        found.append(look(partial(function, *arguments)))
    if not any(found):
        raise RuntimeError("the profiler sees nothing on the device")
    return found


def _profiled(call: Callable[[], Any]) -> list[Span]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    on_device = (e for e in profiler.events() if e.device_type is torch.autograd.DeviceType.CUDA)
    return [(float(e.time_range.start), float(e.time_range.end)) for e in on_device]
