"""Guard bands: bytes that only a write outside of a tensor changes.

In: a seed and a tensor's name. Out: the bytes before and after it, the same in worker and judge. Left to others: laying
tensors between them (`worker.structure`), looking at them after a call (`judge.structure`).
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from kernelevolve.tensors.draw import generator

ALIGNED = 256
_DEVICE_BYTES, _HOST_BYTES = 1 << 20, 1 << 14


def width(device: str) -> int:
    """Bytes of one band; a multiple of what every allocation is aligned to."""
    return _HOST_BYTES if device == "cpu" else _DEVICE_BYTES


def pattern(seed: int, name: str, side: Literal["low", "high"], device: str) -> Any:
    """The bytes of one band."""
    source = generator(seed, f"band/{name}/{side}", device)
    return torch.randint(0, 256, (width(device),), dtype=torch.uint8, generator=source, device=device)
