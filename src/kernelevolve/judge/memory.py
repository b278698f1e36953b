"""Device memory of the judge's own for a foreign kernel: between guard bands, viewed as a plan says.

In: a size, a `packed.View`. Out: memory, tensors in it, whether anybody wrote beside it. Left to others: whether a view
lies inside (`claims`), who writes what (`plan_lane`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kernelevolve.judge.claims import ALIGNED
from kernelevolve.packed import View
from kernelevolve.tensors.outputs import dtype_of

GUARD = 64 << 10  # bytes on both sides; a multiple of what every address is a multiple of
_BAND = 0xA5


class Guarded:
    """Device memory between two bands of known bytes."""

    def __init__(self, nbytes: int, device: str) -> None:
        padded = -(-max(nbytes, 1) // ALIGNED) * ALIGNED
        self._all = torch.full((padded + 2 * GUARD,), _BAND, dtype=torch.uint8, device=device)
        self.bytes = self._all[GUARD : GUARD + nbytes]
        self._bands = (self._all[:GUARD], self._all[GUARD + nbytes :])
        self.address = int(self._all.data_ptr()) + GUARD

    def view(self, view: View) -> Any:
        """The strided tensor that `view` describes."""
        dtype = dtype_of(view.dtype)
        return strided(self.bytes, view.offset, view.shape, view.stride, dtype)

    @property
    def intact(self) -> bool:
        """Whether nobody wrote outside."""
        return all(bool((band == _BAND).all().item()) for band in self._bands)


def strided(flat: Any, offset: int, shape: Sequence[int], stride: Sequence[int], dtype: Any) -> Any:
    """The tensor at `offset` bytes of flat uint8 memory; `shape` and `stride` in elements."""
    whole = flat[offset : offset + (flat.numel() - offset) // dtype.itemsize * dtype.itemsize].view(dtype)
    return whole.as_strided(tuple(shape), tuple(stride), whole.storage_offset())
