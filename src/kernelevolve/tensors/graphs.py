"""CUDA graphs of timed calls: one for each slot of a ring, captured once, replayed in bursts of mode `graph`.

In: a function and a ring that is warm. Out: the ring's `graphs`. Left to others: timing replays
(`clock`), comparing what they gave (`judge.timed`).

All graphs share one pool of memory, so they take as much as one of them beside their results. Their results keep their
addresses and are written again by the next replay; the copy that is made right behind each replay is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernelevolve.tensors.ring import Ring

WARM_CALLS = 2  # on the stream of the capture: what is set up at the first call must not be captured
Replay = Callable[[], None]
Record = Callable[[Callable[[], Any], Any], tuple[Any, Replay]]

_Graph = torch.cuda.CUDAGraph
_replay: Any = getattr(_Graph, "replay", None)
_stream: Any = torch.cuda.stream


def capture(function: Callable[..., Any], ring: Ring, record: Record | None = None) -> str:
    """Captures one call per slot of the ring; why that cannot be done here, empty where the ring has its graphs now.

    A second call does nothing where there are graphs. Whatever the function raises on the way is a reason as well, and
    nobody's fault: not everything that is right can be captured.

    Args:
        record: captures one call in a pool: its result and what replays it; CUDA's own if None.
    """
    if ring.graphs:
        return ""
    if record is None and not ring.cuda:
        return "there are no CUDA graphs on the CPU"
    pool = torch.cuda.graph_pool_handle() if record is None else None
    made = [_of_slot(function, arguments, record or _record_cuda, pool) for arguments in ring.slots]
    ring.graphs = made
    return ""


def _of_slot(function: Callable[..., Any], arguments: Any, record: Record, pool: Any) -> Callable[[], Any]:
    result, replay = record(lambda: function(*arguments), pool)

    def again() -> Any:
        replay()
        return result

    return again


def _record_cuda(call: Callable[[], Any], pool: Any) -> tuple[Any, Replay]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with _stream(side):
        for _ in range(WARM_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = _Graph()
    with torch.cuda.graph(graph, pool=pool, stream=side):
        result = call()
    torch.cuda.synchronize()
    return result, lambda: _replay(graph)
