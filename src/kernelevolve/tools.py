"""The contract of the tools that whoever writes a kernel may use before it is submitted.

In: a source. Out: a Report. Left to others: doing it (`evaluate.tools`), offering it (`propose` to a model, the doors
to a guest).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Report:
    """What a tool says of a source.

    Attributes:
        ok: whether it has no objection.
        text: for whoever wrote the source: what was seen, each figure with its evidence; a fault in full.
        facts: the same as data.
    """

    ok: bool
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Tools(Protocol):
    """What may be asked about a source before it is submitted: the cheap rungs of the ladder, on the host's CPUs.

    A fault of the source is a report that is not `ok`; each method raises MachineError for the machine's.

    Attributes:
        targets: names of the platforms it compiles for; the first is the objective one.
    """

    targets: tuple[str, ...]

    async def check(self, source: str) -> Report:
        """Whether its text is a kernel with the interface that is asked for; nothing of it runs."""
        ...

    async def compile(self, source: str, platforms: Sequence[str] = ()) -> Report:
        """Registers, spills, shared memory and occupancy of each launch, at the default knobs.

        Args:
            platforms: of `targets`; default: the objective one.

        Raises:
            UnknownName: a platform that is no target.
        """
        ...

    async def interpret(self, source: str) -> Report:
        """Whether it gives the reference's values on scaled workloads."""
        ...
