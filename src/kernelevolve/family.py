"""Family: what a problem computes, whatever its sizes; the same family on the same platform is worth a warm start.

In: nothing but values. Out: a frozen Family, whether two are alike, and how far apart their sizes are. Left to others:
reading it off a captured reference (`translate.family`), keeping it (`events.Noted`, topic `family`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Topic of the note that has a run's Family.
TOPIC = "family"


@dataclass(frozen=True)
class Family:
    """A captured reference without its sizes, and its sizes.

    Attributes:
        ops: how often each ATen op occurs, views left out, overloads taken as one.
        dtypes, ranks: of inputs, parameters and buffers that are used, in order.
        sizes: log2 of each of their extents at the first workload's full size, in order.
    """

    ops: Mapping[str, int] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    sizes: tuple[float, ...] = ()

    def alike(self, other: Family) -> bool:
        """Whether both have the same ops equally often, and tensors of the same dtypes and ranks."""
        mine, theirs = (self.dtypes, self.ranks), (other.dtypes, other.ranks)
        return dict(self.ops) == dict(other.ops) and mine == theirs and len(self.sizes) == len(other.sizes)

    def apart(self, other: Family) -> float:
        """Mean of |log2 of one extent - log2 of the other|: 0 for the same sizes, 1 where all are twice as large."""
        pairs = list(zip(self.sizes, other.sizes, strict=True))
        return sum(abs(mine - theirs) for mine, theirs in pairs) / max(len(pairs), 1)

    def __str__(self) -> str:
        return ", ".join(f"{name} x{count}" if count > 1 else name for name, count in sorted(self.ops.items()))
