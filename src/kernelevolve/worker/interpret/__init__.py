"""The interpret rung: Triton candidates run on the CPU, rounding as the hardware does, every address checked.

Comes in: a context to run a candidate in. Goes out: its results in host memory, a report, or a fault by name
(`errors`). Loading candidates, scaling workloads and judging results are left to the worker and the judge. Needs torch,
triton and numpy only; the process can compile before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .errors import (
    AssumptionFailed,
    CannotBeSeen,
    IndexOverflow,
    InterpretFault,
    InvalidDescriptor,
    Misaligned,
    OutOfBounds,
    TooManyPrograms,
    UnansweredDevice,
)
from .launch import Engine, InterpretReport, Recorder
from .masquerade import Answers, posing
from .switch import redirected

__all__ = [
    "AssumptionFailed",
    "CannotBeSeen",
    "IndexOverflow",
    "InterpretFault",
    "InterpretReport",
    "InvalidDescriptor",
    "Misaligned",
    "OutOfBounds",
    "Recorder",
    "TooManyPrograms",
    "UnansweredDevice",
    "interpreting",
]

_engine: Engine | None = None
_active = False


@contextmanager
def interpreting(
    *,
    device_answers: Mapping[str, Any] | None = None,
    program_limit: int | None = None,
    poison: bool = True,
    address_only: bool = False,
) -> Iterator[Recorder]:
    """Runs every Triton launch made inside on the CPU; host memory poses as ``cuda:0``.

    ``device_answers``: what ``torch.cuda`` and Triton's driver say of the device, by torch's property names
    (``multi_processor_count``, ``name``, ``total_memory``, ...), ``capability`` (major, minor), ``arch``, ``backend``.
    A figure that is asked for and not given raises `UnansweredDevice`.
    ``program_limit``: programs allowed in all launches together; a launch beyond it raises `TooManyPrograms`.
    ``poison``: uninitialised tensors, and lanes masked off without ``other``, hold NaN (integers: byte 0x5B).
    ``address_only``: a few programs of each launch run and only their addresses are checked; tensors may be ``meta``
    tensors of any size, loads give zero, ``program_limit`` cuts how many programs run.

    Raises the faults of `errors` at the launch that shows them. Not reentrant.
    """
    global _engine, _active
    if _active:
        raise RuntimeError("interpreting() is active already; leave the outer context first")
    if _engine is None:
        _engine = Engine()
    engine = _engine
    answers = Answers(device_answers or {})
    recorder = Recorder(program_limit, poison, address_only, answers.options())

    def launch(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        engine.launch(recorder, kernel, grid, args, kwargs)

    _active = True
    try:
        with redirected(launch, engine.call, recorder.note), posing(answers, recorder):
            yield recorder
    finally:
        _active = False
