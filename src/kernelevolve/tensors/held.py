"""Results of timed calls, copied as soon as they are timed and held until the judge has looked at them.

In: each call's result, in order. Out: a copy of every output in one piece of memory, a sum of each that is sent with
the times, and the results themselves for a second look. Left to others: timing (`clock`), comparing (`judge.timed`).

The copy is enqueued right behind the call, so it has what was there when the call was said to be over; what arrives
later is not in it. The sum binds the copy: it leaves this process before anybody asks for the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernelevolve.tensors.clock import unhooked
from kernelevolve.tensors.outputs import TensorMeta, meta_of

_ALIGNED = 256
_copy = torch.Tensor.copy_
_detach = torch.Tensor.detach
_sum = torch.Tensor.sum
Leaves = list[tuple[str, Any]]


@dataclass(frozen=True)
class Copied:
    """One output of one call: its metadata, its copy, where that lies in the arena (-1: not in it), and its sum."""

    meta: TensorMeta
    values: Any
    offset: int
    sum: Any


class Held:
    """The results of the calls since `drop`.

    Args:
        leaves: names the outputs of one result.
        arena: bytes for copies; what does not fit is copied elsewhere.
    """

    def __init__(self, leaves: Callable[[Any], Leaves], device: str, arena: int) -> None:
        self._leaves = leaves
        self.arena = torch.empty(max(arena, _ALIGNED), dtype=torch.uint8, device=device)
        self.calls: list[list[Copied]] = []
        self._originals: list[Leaves] = []
        self._used = 0

    def take(self, result: Any) -> None:
        """Copies one call's outputs; enqueued, not waited for."""
        leaves = self._leaves(result)
        with torch.no_grad(), unhooked():
            self.calls.append([self._copied(path, leaf) for path, leaf in leaves])
        self._originals.append(leaves)

    def _copied(self, path: str, leaf: Any) -> Copied:
        meta = meta_of(path, leaf)
        if meta.kind != "Tensor":
            return Copied(meta, None, -1, 0)
        size = meta.nbytes
        room = self._used + size <= self.arena.numel()
        flat = self.arena[self._used : self._used + size] if room else torch.empty_like(self.arena[:1]).repeat(size)
        offset = self._used if room else -1
        if room:
            self._used += -(-size // _ALIGNED) * _ALIGNED
        values = flat.view(leaf.dtype).view(meta.shape) if size else torch.empty(meta.shape, dtype=leaf.dtype)
        if size:
            _copy(values, _detach(leaf))
        return Copied(meta, values, offset, checksum(flat) if size else 0)

    def again(self) -> None:
        """Copies every output once more, from the results themselves as they are now."""
        with torch.no_grad(), unhooked():
            for copied, leaves in zip(self.calls, self._originals, strict=True):
                for one, (_, leaf) in zip(copied, leaves, strict=True):
                    if one.values is not None and one.values.numel():
                        _copy(one.values, _detach(leaf))

    def sums(self, since: int = 0) -> list[list[int]]:
        """The sums of each call from number `since` on; the device must have finished."""
        return [[int(one.sum) for one in call] for call in self.calls[since:]]

    def drop(self) -> None:
        """Forgets all results."""
        self.calls, self._originals, self._used = [], [], 0


def checksum(flat: Any) -> Any:
    """The sum of the bytes of a flat uint8 tensor, taken as 64-bit words where their number allows, modulo 2^64."""
    return _sum(flat.view(torch.int64) if flat.numel() % 8 == 0 else flat, dtype=torch.int64)


def arena_bytes(metas: Sequence[TensorMeta], calls: int) -> int:
    """Bytes that the copies of `calls` results take."""
    return calls * sum(-(-m.nbytes // _ALIGNED) * _ALIGNED for m in metas if m.kind == "Tensor")
