"""PackedPlan: a LaunchPlan with everything that is needed to carry it out where the candidate's Python is not.

In: nothing; these are frozen values of the standard library. Out: what the builder packs (`worker.pack`), what the
judge validates and replays (`judge.plan_lane`), and what is stored as an artefact. Left to others: the kernels' machine
code, which travels and is stored as bytes under its SHA-256.

All of it is the builder's claim: nothing in a PackedPlan is believed before `judge.claims` has looked at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Store:
    """A piece of device memory that the plan works on.

    Attributes:
        name: `input0` (leaf of forward's arguments), a parameter's or buffer's name, `scratch3`.
        role: scratch is everything that the call allocates, outputs included.
        nbytes: of an input or parameter, from its first to its last element; of scratch, all of it.
        shape, stride, dtype: of an input or parameter, as the candidate holds it.
    """

    name: str
    role: Literal["input", "parameter", "scratch"]
    nbytes: int
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True)
class View:
    """A strided tensor inside a Store: `offset` in bytes from its start, `shape` and `stride` in elements."""

    store: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TensorMap:
    """Parameters of `cuTensorMapEncodeTiled`, outermost dimension first as in Triton.

    Attributes:
        view: the tensor that is described; its last stride is 1.
        box: elements that one copy moves, per dimension.
        element: the driver's CUtensorMapDataType; `swizzle` its CUtensorMapSwizzle.
        element_bytes: of one element.
        nan_fill: whether elements out of bounds read as NaN; otherwise as zero.
    """

    view: View
    box: tuple[int, ...]
    element: int
    element_bytes: int
    swizzle: int
    nan_fill: bool = False


@dataclass(frozen=True)
class Parameter:
    """One kernel parameter, in the order and of the type in which Triton's own launcher passes it.

    Attributes:
        kind: `pointer` is `store` + `offset`, or null where `store` is empty; `map` is a 128-byte tensor map;
            `global scratch` and `profile scratch` are pointers to memory that the kernel asks for by its metadata.
        type: Triton's name: `*fp32`, `i32`, `fp32`, `nvTmaDesc`, ...
        divisible: the kernel was compiled for an address that is a multiple of 16 bytes.
    """

    kind: Literal["pointer", "scalar", "map", "global scratch", "profile scratch"]
    type: str
    store: str = ""
    offset: int = 0
    value: bool | int | float = 0
    map: TensorMap | None = None
    divisible: bool = False


@dataclass(frozen=True)
class PackedKernel:
    """One binary and how it is launched.

    Attributes:
        digest: SHA-256 of the binary's bytes, under which it travels.
        symbol: of the kernel in it.
        warps, ctas: per program; `ctas` above 1 is a cluster along x.
        shared: bytes of dynamic shared memory per block.
        scratch_bytes, profile_bytes: of global scratch per block; with their alignment.
        cooperative, dependent: cooperative grid; programmatic dependent launch.
    """

    digest: str
    symbol: str
    warps: int
    ctas: int
    shared: int
    scratch_bytes: int = 0
    scratch_align: int = 1
    profile_bytes: int = 0
    profile_align: int = 1
    cooperative: bool = False
    dependent: bool = False


@dataclass(frozen=True)
class PackedLaunch:
    """One launch: index of its kernel, programs in x, y, z, all parameters."""

    kernel: int
    grid: tuple[int, int, int]
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class PackedFill:
    """Every element of `view` becomes `value`."""

    view: View
    value: bool | int | float


@dataclass(frozen=True)
class PackedCopy:
    """`target.copy_(source)`: same shape after broadcasting, converted to the target's dtype."""

    target: View
    source: View


@dataclass(frozen=True)
class PackedOutput:
    """One leaf of the output, by its path: `out`, `out[0]`."""

    path: str
    view: View


@dataclass(frozen=True)
class PackedPlan:
    """What `forward` does for one workload, ready to be carried out.

    Attributes:
        target: what the kernels are compiled for, e.g. `sm_90`.
        steps: launches, fills and copies in the order in which `forward` did them.
    """

    workload: str
    platform: str
    target: str
    stores: tuple[Store, ...]
    kernels: tuple[PackedKernel, ...]
    steps: tuple[PackedLaunch | PackedFill | PackedCopy, ...]
    outputs: tuple[PackedOutput, ...]

    @property
    def scratch_bytes(self) -> int:
        """Device memory that the call itself allocates, outputs included, a kernel's own scratch not."""
        return sum(s.nbytes for s in self.stores if s.role == "scratch")


def packed_name(platform: str, workload: str) -> str:
    """The artefact that holds a workload's PackedPlan as JSON, e.g. `packed plan h100 declared`."""
    return f"packed plan {platform} {workload}"


def kernel_name(digest: str) -> str:
    """The artefact that holds a kernel's machine code, e.g. `kernel 3f2a...`."""
    return f"kernel {digest}"
