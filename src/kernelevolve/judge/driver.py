"""A thin driver for launching binaries: load, look at, encode tensor maps, launch; in torch's current context.

In: a binary, a launch's configuration, the bytes of its parameters. Out: launches on torch's current stream. Left to
others: what may be launched (`claims`), with which memory (`plan_lane`). `Driver` is a protocol, so that a test can put
one in its place that writes down what it is asked; `CudaDriver` calls libcuda by ctypes.

Attributes and flags are those of Triton's launcher (backends/nvidia/driver.c, 3.6 to 3.9): a cluster along x with the
spreading policy, programmatic stream serialisation, cooperative grids; above 48 KiB of shared memory the function is
allowed all that the device has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from kernelevolve.judge import cubin

MAP_BYTES = 128
THREADS_PER_WARP = 32


class DriverRefused(Exception):
    """The driver answered with an error: its number, its name, and what it was asked."""


@dataclass(frozen=True)
class Shape:
    """How a kernel is launched.

    Attributes:
        grid: blocks in x, y, z, the cluster counted in.
        threads: per block.
        shared: bytes of dynamic shared memory.
        cluster: blocks of a cluster along x; 1 = none.
    """

    grid: tuple[int, int, int]
    threads: int
    shared: int
    cluster: int = 1
    cooperative: bool = False
    dependent: bool = False


@dataclass(frozen=True)
class Encoded:
    """The arguments of `cuTensorMapEncodeTiled`, innermost dimension first, strides in bytes."""

    address: int
    element: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    nan_fill: bool
    element_bytes: int


class Driver(Protocol):
    """What a runner of plans needs from a device."""

    def load(self, binary: bytes) -> Any:
        """A fresh module: its global variables hold what the binary says."""
        ...

    def unload(self, module: Any) -> None:
        """Gives it back."""
        ...

    def function(self, module: Any, symbol: str, shared: int) -> Any:
        """The kernel, allowed `shared` bytes of dynamic shared memory."""
        ...

    def parameter_sizes(self, function: Any) -> Sequence[int]:
        """Bytes of each of the kernel's parameters, as the device's driver sees them."""
        ...

    def encode(self, wanted: Encoded) -> bytes:
        """A tensor map."""
        ...

    def prepare(self, function: Any, shape: Shape, parameters: Sequence[bytes]) -> Callable[[], None]:
        """A launch that can be done again and again; parameters are copied now."""
        ...


class _Cluster(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


class _Value(ctypes.Union):
    _fields_ = (("pad", ctypes.c_char * 64), ("flag", ctypes.c_int), ("cluster", _Cluster))


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", _Value))


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid_x", ctypes.c_uint),
        ("grid_y", ctypes.c_uint),
        ("grid_z", ctypes.c_uint),
        ("block_x", ctypes.c_uint),
        ("block_y", ctypes.c_uint),
        ("block_z", ctypes.c_uint),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


_COOPERATIVE, _CLUSTER_DIMENSION, _CLUSTER_POLICY, _DEPENDENT = 2, 4, 5, 6  # CUlaunchAttributeID
_SPREAD = 1  # CU_CLUSTER_SCHEDULING_POLICY_SPREAD
_STATIC_SHARED, _MOST_DYNAMIC_SHARED, _NON_PORTABLE_CLUSTER = 1, 8, 14  # CUfunction_attribute
_PREFER_SHARED = 1  # CU_FUNC_CACHE_PREFER_SHARED
_SHARED_OPTIN = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
_SHARED_BY_DEFAULT = 48 << 10
_NON_PORTABLE = 16  # a cluster of so many blocks needs leave
_L2_PROMOTION_128B = 2
_MOST_PARAMETERS = 4096
_NAN_FILL = 1
# Drivers up to 13.1 set a bit in the map of a tensor of less than 128 KiB that must not be set; CUTLASS b7ecaa6.
_FAULTY_UP_TO, _SMALL_BYTES, _FAULTY_BIT = 13010, 128 << 10, 1 << 21


class CudaDriver:
    """libcuda by ctypes, in the context that torch made current in this thread."""

    def __init__(self, device: str) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._index = torch.device(device).index or 0
        torch.cuda.set_device(self._index)
        torch.cuda.current_stream().synchronize()  # makes the device's primary context current in this thread
        optin, number = ctypes.c_int(), ctypes.c_int()
        self._ask("cuDeviceGetAttribute", ctypes.byref(optin), _SHARED_OPTIN, self._index)
        self._ask("cuDriverGetVersion", ctypes.byref(number))
        self.shared_limit, self._version = int(optin.value), int(number.value)
        self._launch = self._cuda.cuLaunchKernelEx
        self._symbols: dict[int, tuple[bytes, str]] = {}
        self._binaries: dict[int, bytes] = {}

    def _ask(self, name: str, *arguments: Any) -> None:
        self._check(getattr(self._cuda, name)(*arguments), name)

    def _check(self, status: int, name: str) -> None:
        if status:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorName(status, ctypes.byref(text))
            said = (text.value or b"unknown error").decode()
            raise DriverRefused(f"{name} answered {status} ({said})")

    def load(self, binary: bytes) -> Any:
        module = ctypes.c_void_p()
        self._ask("cuModuleLoadData", ctypes.byref(module), binary)
        self._binaries[int(module.value or 0)] = binary
        return module

    def unload(self, module: Any) -> None:
        self._binaries.pop(int(module.value or 0), None)
        self._ask("cuModuleUnload", module)

    def function(self, module: Any, symbol: str, shared: int) -> Any:
        made = ctypes.c_void_p()
        self._ask("cuModuleGetFunction", ctypes.byref(made), module, symbol.encode())
        self._symbols[int(made.value or 0)] = self._binaries[int(module.value or 0)], symbol
        if shared > _SHARED_BY_DEFAULT:
            static = ctypes.c_int()
            self._ask("cuFuncSetCacheConfig", made, _PREFER_SHARED)
            self._ask("cuFuncGetAttribute", ctypes.byref(static), _STATIC_SHARED, made)
            self._ask("cuFuncSetAttribute", made, _MOST_DYNAMIC_SHARED, self.shared_limit - static.value)
        return made

    def parameter_sizes(self, function: Any) -> Sequence[int]:
        sizes: list[int] = []
        offset, size = ctypes.c_size_t(), ctypes.c_size_t()
        ask = getattr(self._cuda, "cuFuncGetParamInfo", None)  # since CUDA 12.4
        while ask is not None and len(sizes) < _MOST_PARAMETERS:
            if ask(function, ctypes.c_size_t(len(sizes)), ctypes.byref(offset), ctypes.byref(size)):
                break
            sizes.append(int(size.value))
        # No kernel of Triton's is without parameters: a driver that knows of none does not answer this question.
        return sizes or cubin.parameter_sizes(*self._symbols[int(function.value or 0)])

    def encode(self, wanted: Encoded) -> bytes:
        rank = len(wanted.sizes)
        # The driver wants the map on a multiple of 64 bytes.
        room = ctypes.create_string_buffer(2 * MAP_BYTES)
        start = -ctypes.addressof(room) % MAP_BYTES
        made = (ctypes.c_uint64 * (MAP_BYTES // 8)).from_buffer(room, start)
        self._ask(
            "cuTensorMapEncodeTiled",
            ctypes.byref(made),
            ctypes.c_int(wanted.element),
            ctypes.c_uint32(rank),
            ctypes.c_void_p(wanted.address),
            (ctypes.c_uint64 * rank)(*wanted.sizes),
            (ctypes.c_uint64 * max(1, rank - 1))(*wanted.strides),
            (ctypes.c_uint32 * rank)(*wanted.box),
            (ctypes.c_uint32 * rank)(*[1] * rank),
            ctypes.c_int(0),
            ctypes.c_int(wanted.swizzle),
            ctypes.c_int(_L2_PROMOTION_128B),
            ctypes.c_int(_NAN_FILL if wanted.nan_fill else 0),
        )
        if self._version <= _FAULTY_UP_TO:
            steps = (wanted.element_bytes, *wanted.strides)
            last = sum((size - 1) * step for size, step in zip(wanted.sizes, steps, strict=True))
            if last + 1 < _SMALL_BYTES:
                made[1] &= ~_FAULTY_BIT
        return bytes(made)

    def prepare(self, function: Any, shape: Shape, parameters: Sequence[bytes]) -> Callable[[], None]:
        attributes = (_Attribute * 4)()
        count = 0
        for wanted, number in ((shape.dependent, _DEPENDENT), (shape.cooperative, _COOPERATIVE)):
            if wanted:
                attributes[count].id, attributes[count].value.flag = number, 1
                count += 1
        if shape.cluster > 1:
            attributes[count].id = _CLUSTER_DIMENSION
            attributes[count].value.cluster = _Cluster(shape.cluster, 1, 1)
            attributes[count + 1].id, attributes[count + 1].value.flag = _CLUSTER_POLICY, _SPREAD
            count += 2
            if shape.cluster == _NON_PORTABLE:
                self._ask("cuFuncSetAttribute", function, _NON_PORTABLE_CLUSTER, 1)
        stream = torch.cuda.current_stream(self._index).cuda_stream
        config = _Config(*shape.grid, shape.threads, 1, 1, shape.shared, stream, attributes, count)
        held = [_aligned(value) for value in parameters]
        pointers = (ctypes.c_void_p * max(1, len(held)))(*[address for _, address in held])
        launch, check, asked = self._launch, self._check, ctypes.byref(config)

        def go(_alive: Any = (attributes, config, held)) -> None:
            status = launch(asked, function, pointers, None)
            if status:
                check(status, "cuLaunchKernelEx")

        return go


def _aligned(value: bytes) -> tuple[Any, int]:
    """Memory that holds `value` on a multiple of 128 bytes, and its address."""
    room = ctypes.create_string_buffer(len(value) + MAP_BYTES)
    address = ctypes.addressof(room) + -ctypes.addressof(room) % MAP_BYTES
    ctypes.memmove(address, value, len(value))
    return room, address


def driver_of(device: str) -> Driver:
    """The driver of a device.

    Raises:
        DriverRefused: there is none, or it is AMD's.
    """
    if not device.startswith("cuda"):
        raise DriverRefused(f"the plan lane needs a device, {device!r} is none")
    if torch.version.hip is not None:
        raise DriverRefused("plan lane: AMD not yet")
    return CudaDriver(device)
