"""Looks at a PackedPlan before anything of it is done: it comes from a process that held the candidate.

In: the plan, its binaries, what the problem takes and holds, the device's limits. Out: nothing, or a refusal:
`PlanFault` with `TAMPER` for what no honest builder writes, `NotCovered` for what the lane cannot carry out. Left to
others: carrying it out (`plan_lane`). What a kernel itself does with its addresses cannot be read off a plan: guard
bands and the device's memory protection are for that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernelevolve.evaluation import Verdict
from kernelevolve.judge import cubin
from kernelevolve.packed import (
    PackedCopy,
    PackedFill,
    PackedKernel,
    PackedLaunch,
    PackedPlan,
    Parameter,
    Store,
    TensorMap,
    View,
)
from kernelevolve.protocol import Description
from kernelevolve.tensors.outputs import dtype_of

MOST_STEPS = 100_000
MOST_STORES = 10_000
MOST_RANK = 64
GRID = (2**31 - 1, 65535, 65535)
ALIGNED = 256  # what every allocation here is a multiple of
_CLUSTERS = (1, 2, 4, 8, 16)
_MAP_RANK, _MAP_BOX, _MAP_STEP = 5, 256, 16
_SWIZZLES, _ELEMENTS = range(7), range(16)
INTEGERS = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "u1": 1, "u8": 1, "u16": 2, "u32": 4, "u64": 8}
FLOATS = {"fp16": 2, "bf16": 2, "fp32": 4, "f32": 4, "fp64": 8}


class PlanFault(Exception):
    """The plan or what it does is the candidate's fault: the verdict and one line."""

    def __init__(self, verdict: Verdict, message: str) -> None:
        self.verdict = verdict
        super().__init__(message)


class NotCovered(Exception):
    """The lane cannot carry this plan out; the candidate keeps the process lane, for this reason."""


@dataclass(frozen=True)
class Limits:
    """What the device has: shared memory per block, and how much memory a plan may ask for, in bytes; and what kernels
    have to be compiled for, `sm_90`; empty where that does not matter."""

    shared: int
    memory: int
    target: str = ""


def check(
    plan: PackedPlan,
    binaries: Mapping[str, bytes],
    description: Description,
    state: Mapping[str, tuple[int, ...]],
    limits: Limits,
) -> None:
    """Looks at everything that can be known before a launch.

    Args:
        state: shape of the reference's parameters and buffers, by name.

    Raises:
        PlanFault, NotCovered: see there.
    """
    if len(plan.steps) > MOST_STEPS or len(plan.stores) > MOST_STORES:
        raise NotCovered(f"{len(plan.steps)} steps on {len(plan.stores)} pieces of memory")
    if limits.target not in ("", plan.target):
        raise NotCovered(f"it is compiled for {plan.target[:20]}, and the device is {limits.target}")
    stores = {s.name: s for s in plan.stores}
    if len(stores) != len(plan.stores):
        raise _tamper("two pieces of memory have one name")
    for store in plan.stores:
        _store(store, description, state)
    if plan.scratch_bytes > limits.memory:
        raise NotCovered(f"it allocates {plan.scratch_bytes} bytes, and {limits.memory} are given to a plan")
    sizes = [_kernel(k, binaries, limits) for k in plan.kernels]
    for step in plan.steps:
        if isinstance(step, PackedLaunch):
            _launch(step, plan.kernels, sizes, stores, limits)
        elif isinstance(step, PackedFill):
            _within(step.view, stores, written=True)
        else:
            _copy(step, stores)
    if not plan.outputs or len({o.path for o in plan.outputs}) != len(plan.outputs):
        raise _tamper("it has no outputs, or two of one path")
    for output in plan.outputs:
        _within(output.view, stores)


def _tamper(message: str) -> PlanFault:
    return PlanFault(Verdict.TAMPER, f"a plan that no recording gives: {message[:300]}")


def extent(shape: Sequence[int], stride: Sequence[int], dtype: str) -> int:
    """Bytes from the first to the last element; 0 if there is none."""
    if 0 in shape:
        return 0
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return (last + 1) * itemsize(dtype)


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    try:
        return int(dtype_of(dtype).itemsize)
    except ValueError as error:
        raise _tamper(str(error)) from error


def _store(store: Store, description: Description, state: Mapping[str, tuple[int, ...]]) -> None:
    if store.nbytes < 0:
        raise _tamper(f"{store.name} has {store.nbytes} bytes")
    if store.role == "scratch":
        return
    shape, stride = store.shape, store.stride
    if len(shape) != len(stride) or len(shape) > MOST_RANK or any(s < 0 for s in (*shape, *stride)):
        raise _tamper(f"{store.name} has the shape {shape} and the strides {stride}")
    if store.nbytes != extent(shape, stride, store.dtype):
        raise _tamper(f"{store.name} has {extent(shape, stride, store.dtype)} bytes, the plan says {store.nbytes}")
    if store.role == "input":
        number = store.name.removeprefix("input")
        index = int(number) if number.isdecimal() else -1
        specs = description.inputs
        if not 0 <= index < len(specs) or (shape, store.dtype) != (specs[index].shape, specs[index].dtype):
            raise _tamper(f"there is no input {store.name!r} of {store.dtype}{list(shape)}")
        if not same_layout(shape, stride, specs[index].stride):
            raise _tamper(f"{store.name} has the strides {list(stride)}, the problem's {list(specs[index].stride)}")
    elif store.name not in state:
        raise NotCovered(f"{store.name!r} is a parameter or buffer that the reference does not have")
    elif shape != state[store.name]:
        message = (
            f"{store.name} has the shape {list(state[store.name])} in the reference, {list(shape)} in the candidate"
        )
        raise PlanFault(Verdict.WRONG_META, message)
    elif repeats(shape, stride):
        raise NotCovered(f"the elements of parameter {store.name!r} share memory")


def same_layout(shape: Sequence[int], stride: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two strides mean the same places; those of dimensions of one element do not matter."""
    return all(a == b for size, a, b in zip(shape, stride, other, strict=True) if size > 1)


def repeats(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a zero stride puts several elements in one place."""
    return any(size > 1 and step == 0 for size, step in zip(shape, stride, strict=True))


def _kernel(kernel: PackedKernel, binaries: Mapping[str, bytes], limits: Limits) -> tuple[int, ...]:
    binary = binaries.get(kernel.digest)
    if binary is None or hashlib.sha256(binary).hexdigest() != kernel.digest:
        raise _tamper(f"the binary of kernel {kernel.symbol!r} is not the one that it names")
    try:
        sizes = cubin.parameter_sizes(binary, kernel.symbol)
    except ValueError as error:
        raise _tamper(str(error)) from error
    if not 1 <= kernel.warps <= 32 or kernel.ctas not in _CLUSTERS:
        raise _tamper(f"kernel {kernel.symbol!r} has {kernel.warps} warps and {kernel.ctas} blocks in a cluster")
    if not 0 <= kernel.shared <= limits.shared:
        raise _tamper(f"kernel {kernel.symbol!r} asks for {kernel.shared} bytes of shared memory, of {limits.shared}")
    for size, align in ((kernel.scratch_bytes, kernel.scratch_align), (kernel.profile_bytes, kernel.profile_align)):
        if size < 0 or (size and (align < 1 or ALIGNED % align)):
            raise _tamper(f"kernel {kernel.symbol!r} asks for {size} bytes of scratch on multiples of {align}")
    if kernel.dependent and kernel.scratch_bytes:
        raise NotCovered(f"kernel {kernel.symbol!r} may run beside the next one and has scratch of its own")
    return sizes


def _launch(
    step: PackedLaunch,
    kernels: Sequence[PackedKernel],
    sizes: Sequence[tuple[int, ...]],
    stores: Mapping[str, Store],
    limits: Limits,
) -> None:
    if not 0 <= step.kernel < len(kernels):
        raise _tamper(f"there is no kernel {step.kernel}")
    kernel = kernels[step.kernel]
    for axis, (size, most) in enumerate(zip(step.grid, GRID, strict=True)):
        if not 0 <= size * (kernel.ctas if axis == 0 else 1) <= most:
            raise _tamper(f"kernel {kernel.symbol!r} has the grid {step.grid}")
    scratch = math.prod(step.grid) * kernel.ctas * (kernel.scratch_bytes + kernel.profile_bytes)
    if scratch > limits.memory:
        raise NotCovered(f"kernel {kernel.symbol!r} asks for {scratch} bytes of scratch")
    given = tuple(_parameter(p, stores) for p in step.parameters)
    if given != sizes[step.kernel]:
        wanted = list(sizes[step.kernel])
        raise _tamper(f"kernel {kernel.symbol!r} takes parameters of {wanted} bytes, the plan gives {list(given)}")


def _parameter(parameter: Parameter, stores: Mapping[str, Store]) -> int:
    """The bytes of a parameter."""
    if parameter.kind == "map":
        if parameter.map is None:
            raise _tamper("a tensor map without a description")
        _map(parameter.map, stores)
        return 128
    if parameter.kind == "scalar":
        return _scalar(parameter)
    if parameter.kind == "pointer":
        if not parameter.type.startswith("*"):
            raise _tamper(f"a pointer of type {parameter.type!r}")
        if parameter.store:
            if parameter.store not in stores:
                raise _tamper(f"there is no memory {parameter.store!r}")
            if not 0 <= parameter.offset <= stores[parameter.store].nbytes:
                raise _tamper(f"{parameter.offset} lies outside {parameter.store!r}")
        elif parameter.offset:
            raise _tamper(f"the address {parameter.offset}")
    return 8


def _scalar(parameter: Parameter) -> int:
    if parameter.type in FLOATS:
        return FLOATS[parameter.type]
    width = INTEGERS.get(parameter.type)
    if width is None or not isinstance(parameter.value, int):
        raise _tamper(f"the number {parameter.value!r} of type {parameter.type!r}")
    # Triton's launcher keeps the low bits of what it is given.
    if not -(2 ** (8 * width)) < parameter.value < 2 ** (8 * width):
        raise _tamper(f"{parameter.value} is no {parameter.type}")
    return width


def _map(wanted: TensorMap, stores: Mapping[str, Store]) -> None:
    view = wanted.view
    _within(view, stores)
    rank = len(view.shape)
    odd = (
        not 1 <= rank <= _MAP_RANK
        or len(wanted.box) != rank
        or not all(1 <= b <= _MAP_BOX for b in wanted.box)
        or any(not 1 <= s < 2**32 for s in view.shape)
        or wanted.element_bytes != itemsize(view.dtype)
        or wanted.swizzle not in _SWIZZLES
        or wanted.element not in _ELEMENTS
    )
    if odd:
        raise _tamper(f"the tensor map {wanted}")
    steps = [s * wanted.element_bytes for s in view.stride[:-1]]
    if view.stride[-1] != 1 or view.offset % _MAP_STEP or any(s % _MAP_STEP or s >= 2**40 for s in steps):
        raise NotCovered(f"a tensor map over strides {list(view.stride)} at {view.offset}")


def _within(view: View, stores: Mapping[str, Store], *, written: bool = False) -> None:
    if view.store not in stores:
        raise _tamper(f"there is no memory {view.store!r}")
    sound = len(view.shape) == len(view.stride) <= MOST_RANK and all(s >= 0 for s in (*view.shape, *view.stride))
    if not sound or view.offset < 0 or view.offset % itemsize(view.dtype):
        raise _tamper(f"the view {view}")
    if view.offset + extent(view.shape, view.stride, view.dtype) > stores[view.store].nbytes:
        raise _tamper(f"the view {view} reaches beyond the {stores[view.store].nbytes} bytes of {view.store!r}")
    if written and repeats(view.shape, view.stride):
        raise NotCovered("a fill of a tensor whose elements share memory")


def _copy(step: PackedCopy, stores: Mapping[str, Store]) -> None:
    _within(step.target, stores, written=True)
    _within(step.source, stores)
    target, source = step.target.shape, step.source.shape
    if len(source) > len(target) or any(s not in (1, t) for s, t in zip(source[::-1], target[::-1], strict=False)):
        raise _tamper(f"a copy of shape {list(source)} to {list(target)}")


def held(model: Any) -> list[tuple[str, Any]]:
    """A model's parameters and buffers by name, shared ones under each of their names."""
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
