"""What the builder's operations pass to each other.

Comes in: numpy data. Goes out: `Handle`, the interpreter's stand-in for an IR value, with the tensor that a pointer
came from and the lanes whose 32-bit index wrapped. Meaning is left to the builder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .formats import Array, Pointer, Scalar

_OWN = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Region:
    """Memory that an argument may touch: ``[low, high)`` in bytes, ``first`` the address of its first element."""

    low: int
    high: int
    first: int
    name: str


@dataclass(frozen=True, slots=True)
class Wrap:
    """Lanes of an index that left the int32 range: the operation, one value it should have had, and where."""

    lanes: Array
    operation: str
    value: int
    where: str


class Handle:
    """An IR value: data, its type, the region a pointer came from (None: unknown), the wrap it carries (None: none)."""

    __slots__ = ("data", "region", "ty", "wrap")

    def __init__(self, data: Any, ty: Any, region: Region | None = None, wrap: Wrap | None = None) -> None:
        self.data = data
        self.ty = ty
        self.region = region
        self.wrap = wrap

    @property
    def dtype(self) -> Scalar | Pointer:
        return self.ty  # type: ignore[no-any-return]

    def moved(self, move: Callable[[Array], Array]) -> Handle:
        """This value with its elements rearranged by ``move``."""
        wrap = self.wrap
        if wrap is not None:
            lanes = np.broadcast_to(wrap.lanes, self.data.shape)
            wrap = Wrap(move(lanes), wrap.operation, wrap.value, wrap.where)
        return Handle(move(self.data), self.ty, self.region, wrap)


def candidate_line(own: tuple[str, ...] = ()) -> str:
    """``file:line`` of the innermost frame that belongs to the candidate."""
    skip = (_OWN, *own)
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if not name.startswith(skip) and "/triton/" not in name and not name.startswith("<"):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
