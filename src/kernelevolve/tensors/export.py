"""Exports device memory to the judge by CUDA IPC, so that large outputs are compared where they are.

In: a CUDA tensor. Out: the handle of its allocation and the place in it. Left to others: opening (`judge.ipc`).
Used by whoever ran a kernel: the worker, and the judge's child that carries out a plan.
The tensor must stay alive until the judge has answered.
"""

from __future__ import annotations

import base64
import ctypes
from typing import Any

import torch


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_byte * 64),)


def export(tensor: Any) -> dict[str, Any]:
    """`handle` (base64), `offset` in bytes from the allocation's start, `nbytes`, `device`.

    Raises:
        RuntimeError: the driver refuses; the caller sends bytes instead.
    """
    if not tensor.is_contiguous():
        raise RuntimeError(f"only contiguous tensors are exported, this one has stride {tuple(tensor.stride())}")
    driver = ctypes.CDLL("libcuda.so.1")
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    address = tensor.data_ptr()
    _check(driver.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address)), "range")
    handle = _Handle()
    _check(driver.cuIpcGetMemHandle(ctypes.byref(handle), base), "handle")
    return {
        "handle": base64.b64encode(bytes(handle)).decode(),
        "offset": address - base.value,
        "nbytes": tensor.numel() * tensor.element_size(),
        "device": tensor.device.index or 0,
    }


def _check(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"CUDA IPC: the driver answered {status} when asked for the {what}")


def works() -> bool:
    """Whether this process can export at all."""
    return bool(torch.cuda.is_available())
