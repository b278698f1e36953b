"""A plan: which nodes share a kernel, what reaches memory, and how each kernel walks its domain.

In: nothing but values. Out: `Plan` and `Kernel`, frozen, with JSON and a stable key. Making a first plan is `fuse`'s,
changing it `moves`'.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

Knob = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Kernel:
    """One kernel of the plan.

    Attributes:
        name: a Python identifier, ending in ``kernel``.
        kind: ``pointwise``, ``reduction``, ``contraction`` or ``scan``.
        anchors: reductions, contraction or scan that it computes, in order.
        stores: nodes that it writes to memory, in order.
        scheme: how it walks; the values depend on the kind (see ``emit``).
        rows: for reductions along contiguous rows: ``program`` (one row per program) or ``tile`` (several).
        knobs: tunable constants and launch options with their values, the first one the default.
        overrides: per platform knobs that replace those.
        wide: whether index arithmetic is 64 bits wide.
        persistent: whether as many programs as the device runs at once loop over the tiles; for pointwise kernels and
            contractions.
        order: how a contraction's programs walk its tiles: ``grouped`` (GROUP rows of tiles at a time), ``rows`` or
            ``columns`` (one row, or column, of tiles after the other). A pointwise kernel may be ``reversed``: its
            first programs take the last blocks, unless it is persistent.
        warp_elements: elements per warp, which with ``num_warps`` give the block of a pointwise kernel or of a loop
            along rows; 0 where BLOCK is a knob.
        about: its docstring.
    """

    name: str
    kind: str
    anchors: tuple[str, ...]
    stores: tuple[str, ...]
    scheme: str
    rows: str = "program"
    knobs: tuple[Knob, ...] = ()
    overrides: tuple[tuple[str, tuple[Knob, ...]], ...] = ()
    wide: bool = False
    persistent: bool = False
    order: str = "grouped"
    warp_elements: int = 0
    about: str = ""

    def knob(self, name: str) -> tuple[Any, ...]:
        """A knob's values."""
        return dict(self.knobs)[name]

    def with_knob(self, name: str, values: tuple[Any, ...]) -> Kernel:
        """The kernel with other values of a knob."""
        return replace(self, knobs=tuple((k, values if k == name else v) for k, v in self.knobs))

    def without_knobs(self, *names: str) -> Kernel:
        """The kernel without these knobs."""
        return replace(self, knobs=tuple((k, v) for k, v in self.knobs if k not in names))


@dataclass(frozen=True)
class Plan:
    """All kernels in launch order, for a platform, or for a vendor's platforms (``nvidia`` or ``amd``)."""

    kernels: tuple[Kernel, ...]
    platform: str
    allow_tf32: bool = False

    @property
    def stored(self) -> frozenset[str]:
        """All nodes that reach memory."""
        return frozenset(name for kernel in self.kernels for name in kernel.stores)

    def key(self) -> str:
        """A stable identity: equal plans have equal keys."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def with_kernel(self, kernel: Kernel) -> Plan:
        """The plan with the kernel of this name replaced."""
        return replace(self, kernels=tuple(kernel if k.name == kernel.name else k for k in self.kernels))

    def to_json(self) -> str:
        """The plan as JSON text."""
        kernels = [vars(kernel) for kernel in self.kernels]
        content = {"kernels": kernels, "platform": self.platform, "allow_tf32": self.allow_tf32}
        return json.dumps(content, sort_keys=True)

    @staticmethod
    def from_json(source: str) -> Plan:
        """Reads what `to_json` wrote."""
        content = json.loads(source)
        kernels = tuple(Kernel(**{k: _tuples(v) for k, v in kernel.items()}) for kernel in content["kernels"])
        return Plan(kernels, content["platform"], content["allow_tf32"])


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
