"""Opens device memory that a worker exported by CUDA IPC, so that large outputs are compared where they are.

In: `{handle, offset, nbytes, device}`: base64 of the 64-byte handle of an allocation, and a tensor's place in it. Out:
a tensor on that memory, valid inside the `with`. Left to others: exporting (`worker`), comparing (`accept`).
The memory belongs to an untrusted process: it is read only, after the host saw that the worker had finished its call.
"""

from __future__ import annotations

import base64
import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from kernelevolve.errors import MachineError
from kernelevolve.tensors.outputs import TensorMeta, dtype_of

_LAZY_PEER_ACCESS = 1
_HANDLE_BYTES = 64


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_byte * _HANDLE_BYTES),)


class _Memory:
    """Device bytes as `__cuda_array_interface__`, which `torch.as_tensor` reads without copying."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


@contextmanager
def opened(body: Mapping[str, Any], meta: TensorMeta) -> Iterator[Any]:
    """The contiguous tensor of `meta` in another process's memory; closed after.

    Raises:
        MachineError: the driver refuses the handle; send bytes instead.
        ValueError: the announced bytes do not fit `meta`.
    """
    raw, offset, nbytes = base64.b64decode(body["handle"]), int(body["offset"]), int(body["nbytes"])
    if len(raw) != _HANDLE_BYTES or offset < 0 or nbytes != meta.nbytes:
        raise ValueError(f"{meta.path}: {nbytes} bytes at {offset} do not fit {meta.dtype}{list(meta.shape)}")
    index = int(body["device"])
    driver = ctypes.CDLL("libcuda.so.1")
    with torch.cuda.device(index):
        torch.cuda.current_stream().synchronize()  # makes the device's primary context current in this thread
        handle, base, size = _Handle.from_buffer_copy(raw), ctypes.c_uint64(), ctypes.c_size_t()
        flag = ctypes.c_uint(_LAZY_PEER_ACCESS)
        _check(driver.cuIpcOpenMemHandle_v2(ctypes.byref(base), handle, flag), "open the handle")
        try:
            _check(driver.cuMemGetAddressRange_v2(None, ctypes.byref(size), base), "read the allocation's size")
            if offset + nbytes > size.value:
                raise ValueError(f"{meta.path}: {nbytes} bytes at {offset} lie outside {size.value} allocated bytes")
            flat = torch.as_tensor(_Memory(base.value + offset, nbytes), device=f"cuda:{index}")
            yield flat.view(dtype_of(meta.dtype)).reshape(meta.shape)
            torch.cuda.synchronize(index)
        finally:
            _check(driver.cuIpcCloseMemHandle(base), "close the handle")


def _check(status: int, what: str) -> None:
    if status:
        raise MachineError(
            f"CUDA IPC: the driver answered {status} when asked to {what}; outputs are sent as bytes instead"
        )
