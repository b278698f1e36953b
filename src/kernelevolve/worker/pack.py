"""From a recording to a PackedPlan and its binaries: all that a launch needs where the candidate's Python is not.

In: a Recording of one `forward` on meta tensors, the target. Out: a PackedPlan, and the kernels' binaries by digest; or
`Unpackable` with the reason why such a call cannot be carried out as data. Left to others: recording (`worker.plan`),
compiling (`worker.build`), believing it (`judge.claims`), carrying it out (`judge.plan_lane`).

Parameters come in the order and of the types in which Triton's own launcher (backends/nvidia/driver.py, 3.6 to 3.9)
passes them: the signature's arguments without constexpr and folded ones, tuples flattened, a tensor descriptor as a
tensor map, its shape (i32) and its strides (i64), or, where the kernel was not lowered to bulk copies, as base, shape,
strides (i64), flags (i1), shape (i32) and strides (i64) again; then the pointers to global and profile scratch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from triton.backends import driver as common
from triton.backends.nvidia import driver as nvidia

from kernelevolve.errors import ProblemError
from kernelevolve.hardware import Target
from kernelevolve.packed import (
    PackedCopy,
    PackedFill,
    PackedKernel,
    PackedLaunch,
    PackedOutput,
    PackedPlan,
    Parameter,
    Store,
    TensorMap,
    View,
)
from kernelevolve.tensors import call
from kernelevolve.worker.build import compiled
from kernelevolve.worker.census import ALLOCATIONS, COPIES, FILLS, HIDDEN_VIEWS, is_view
from kernelevolve.worker.plan import Compilable, LaunchStep, OpStep, Recording

_SILENT = frozenset(("detach", "alias", "lift_fresh", "sym_size", "sym_stride", "sym_numel")) | HIDDEN_VIEWS
_TF32 = 11  # CU_TENSOR_MAP_DATA_TYPE_TFLOAT32


class Unpackable(Exception):
    """This call cannot be carried out as data; the candidate keeps the process lane, for this reason."""


@dataclass
class _Stores:
    """Device memory by the storage that stood for it."""

    made: dict[int, Store] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    used: dict[int, None] = field(default_factory=dict)

    def add(self, tensor: torch.Tensor, name: str, role: Any) -> None:
        """Inputs and parameters begin with the tensor's first element; scratch is the whole storage."""
        key = _key(tensor)
        if key in self.made:
            return
        if role == "scratch":
            self.made[key], self.starts[key] = Store(name, role, int(tensor.untyped_storage().nbytes())), 0
            return
        shape, stride = tuple(tensor.shape), tuple(tensor.stride())
        self.made[key] = Store(name, role, _extent(tensor), shape, stride, _dtype(tensor))
        self.starts[key] = _offset(tensor)

    def place(self, tensor: torch.Tensor) -> tuple[str, int]:
        """Name of the store, and bytes from its start.

        Raises:
            Unpackable: nobody knows what is in this memory.
        """
        key = _key(tensor)
        if key not in self.made:
            shape = list(tensor.shape)
            raise Unpackable(f"it uses a tensor of shape {shape} that is neither an input, a parameter nor its own")
        self.used[key] = None
        return self.made[key].name, _offset(tensor) - self.starts[key]

    def view(self, tensor: torch.Tensor) -> View:
        name, offset = self.place(tensor)
        return View(name, offset, tuple(tensor.shape), tuple(tensor.stride()), _dtype(tensor))


def pack(
    recording: Recording, model: torch.nn.Module, inputs: Sequence[Any], *, workload: str, platform: str, target: Target
) -> tuple[PackedPlan, dict[str, bytes]]:
    """The plan of what was recorded, and its binaries by digest.

    Args:
        model, inputs: those that were recorded.

    Raises:
        Unpackable: see there.
        Fault: a launch does not compile.
    """
    if target.backend != "cuda":
        raise Unpackable(f"plan lane: {target.backend} not yet")
    if recording.addresses:
        raise Unpackable("forward reads a tensor's address, and where it is recorded there is none")
    stores, binaries = _Stores(), dict[str, bytes]()
    for i, leaf in enumerate(torch.utils._pytree.tree_leaves(inputs)):
        if isinstance(leaf, torch.Tensor):
            stores.add(leaf, f"input{i}", "input")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        stores.add(tensor, name, "parameter")
    kernels: dict[str, tuple[int, PackedKernel, Any]] = {}
    steps: list[PackedLaunch | PackedFill | PackedCopy] = []
    for step in recording.steps:
        if isinstance(step, LaunchStep):
            index, metadata = _kernel(step.compilable, target, kernels, binaries)
            steps.append(PackedLaunch(index, step.grid, _parameters(step, stores, metadata)))
        else:
            steps += _op(step, stores)
    outputs = _outputs(recording.result, stores)
    held = tuple(s for key, s in stores.made.items() if key in stores.used)
    made = tuple(k for _, k, _ in sorted(kernels.values(), key=lambda entry: entry[0]))
    return PackedPlan(workload, platform, target.name, held, made, tuple(steps), outputs), binaries


def _outputs(result: Any, stores: _Stores) -> tuple[PackedOutput, ...]:
    try:
        leaves = call.output_leaves(result)
    except ProblemError as error:
        raise Unpackable(str(error)) from error
    return tuple(PackedOutput(path, stores.view(leaf)) for path, leaf in leaves)


def _op(step: OpStep, stores: _Stores) -> list[PackedFill | PackedCopy]:
    """What an ATen op does with memory: nothing for a view, a fill, a copy."""
    short = step.name.split(".")[1]
    if short in FILLS:
        filled = step.args[0] if short.endswith("_") else step.result
        if not short.endswith("_"):
            stores.add(filled, f"scratch{len(stores.made)}", "scratch")
        return [PackedFill(stores.view(filled), _number(step, short))]
    if short in COPIES:
        target, source = step.args[:2] if short == "copy_" else (step.result, step.args[0])
        if not isinstance(source, torch.Tensor) or not source.is_meta:
            raise Unpackable("forward copies from host memory")
        if short != "copy_":
            stores.add(target, f"scratch{len(stores.made)}", "scratch")
        return [PackedCopy(stores.view(target), stores.view(source))]
    if short in ALLOCATIONS and short != "resize_":
        stores.add(step.result, f"scratch{len(stores.made)}", "scratch")
        return []
    if short in _SILENT or is_view(step.name):
        return []
    raise Unpackable(f"forward runs {step.name}")


def _number(step: OpStep, short: str) -> bool | int | float:
    value = FILLS[short]
    if value is None:
        value = step.args[1] if len(step.args) > 1 else step.kwargs.get("fill_value")
    if not isinstance(value, (bool, int, float)):
        raise Unpackable(f"forward fills with a {type(value).__name__}, not with a number")
    return value


def _kernel(
    compilable: Compilable,
    target: Target,
    kernels: dict[str, tuple[int, PackedKernel, Any]],
    binaries: dict[str, bytes],
) -> tuple[int, Any]:
    name = compilable.function.__name__
    key = repr((name, compilable.signature, compilable.constants, compilable.attributes, compilable.options))
    if key not in kernels:
        kernel = compiled(compilable, target)
        binary, m = bytes(kernel.asm["cubin"]), kernel.metadata
        if getattr(m, "instrumentation_mode", ""):
            raise Unpackable(f"kernel {name} is instrumented")
        digest = hashlib.sha256(binary).hexdigest()
        binaries[digest] = binary
        packed = PackedKernel(
            digest=digest,
            symbol=str(m.name),
            warps=int(m.num_warps),
            ctas=int(getattr(m, "num_ctas", 1)),
            shared=int(m.shared),
            scratch_bytes=int(m.global_scratch_size),
            scratch_align=int(m.global_scratch_align),
            profile_bytes=int(m.profile_scratch_size or 0),
            profile_align=int(m.profile_scratch_align or 1),
            cooperative=bool(m.launch_cooperative_grid),
            dependent=bool(m.launch_pdl),
        )
        kernels[key] = len(kernels), packed, m
    index, _, metadata = kernels[key]
    return index, metadata


def _parameters(step: LaunchStep, stores: _Stores, metadata: Any) -> tuple[Parameter, ...]:
    compilable = step.compilable
    maps = list(getattr(metadata, "tensordesc_meta", None) or ())
    taken = iter(maps)
    made: list[Parameter] = []

    def visit(kind: Any, value: Any, path: tuple[int, ...]) -> None:
        if isinstance(kind, (tuple, list)):
            for i, (inner, part) in enumerate(zip(kind, value, strict=True)):
                visit(inner, part, (*path, i))
        elif str(kind).startswith("tensordesc"):
            made.extend(_descriptor(str(kind), value, next(taken) if maps else None, stores))
        elif kind != "constexpr":
            made.append(_parameter(str(kind), value, stores, _divisible(compilable.attributes, path)))

    for i, parameter in enumerate(compilable.function.params):
        kind = compilable.signature[parameter.name]
        value = step.bound[parameter.name] if parameter.name in step.bound else _default(parameter, kind)
        visit(kind, value, (i,))
    return (*made, Parameter("global scratch", "*i8"), Parameter("profile scratch", "*i8"))


def _default(parameter: Any, kind: Any) -> Any:
    if not parameter.has_default and kind != "constexpr":
        raise Unpackable(f"kernel argument {parameter.name} was not given")
    return parameter.default


def _divisible(attributes: Mapping[Any, Any], path: tuple[int, ...]) -> bool:
    return any("divisibility" in str(fact) and "16" in str(fact) for fact in attributes.get(path, ()))


def _parameter(kind: str, value: Any, stores: _Stores, divisible: bool) -> Parameter:
    if kind.startswith("*"):
        if value is None:
            return Parameter("pointer", kind)
        base = value if isinstance(value, torch.Tensor) else getattr(value, "base", None)
        if not isinstance(base, torch.Tensor):
            raise Unpackable(f"a pointer argument is a {type(value).__name__}, not a tensor")
        name, offset = stores.place(base)
        return Parameter("pointer", kind, name, offset, divisible=divisible)
    if not isinstance(value, (bool, int, float)):
        raise Unpackable(f"an argument of type {kind} is a {type(value).__name__}")
    return Parameter("scalar", kind, value=value)


def _descriptor(kind: str, value: Any, meta: Mapping[str, Any] | None, stores: _Stores) -> list[Parameter]:
    """A tensor descriptor of the host as the parameters that it becomes."""
    base = getattr(value, "base", None)
    if not isinstance(base, torch.Tensor) or kind.startswith("tensordesc_im2col"):
        raise Unpackable(f"a descriptor argument is a {type(value).__name__} of type {kind}")
    shape, strides = [int(s) for s in value.shape], [int(s) for s in value.strides]
    sizes = [Parameter("scalar", "i32", value=s) for s in shape]
    steps = [Parameter("scalar", "i64", value=s) for s in strides]
    if meta is None:
        name, offset = stores.place(base)
        decomposed = _decompose(value)
        flags = [Parameter("scalar", "i1", value=bool(f)) for f in decomposed[1 + 2 * len(shape) : -2 * len(shape)]]
        pointer = Parameter("pointer", "*" + kind.partition("<")[2].partition("[")[0], name, offset)
        wide = [Parameter("scalar", "i64", value=s) for s in shape]
        return [pointer, *wide, *steps, *flags, *sizes, *steps]
    if meta.get("fp4_padded") or meta.get("is_im2col"):
        raise Unpackable("a tensor map over 4-bit elements or windows")
    element = nvidia.TMA_DTYPE_DEVICE_TO_HOST[meta["elem_type"]]
    if getattr(value, "round_f32_to_tf32", False):
        element = _TF32
    name, offset = stores.place(base)
    view = View(name, offset, tuple(shape), tuple(strides), _dtype(base))
    made = TensorMap(
        view, tuple(meta["block_size"]), int(element), int(meta["elem_size"]), int(meta["swizzle"]),
        getattr(value, "padding", "zero") == "nan",
    )  # fmt: skip
    return [Parameter("map", "nvTmaDesc", map=made), *sizes, *steps]


def _decompose(descriptor: Any) -> list[Any]:
    """Triton's own decomposition, whose number of flags depends on its release."""
    decompose: Callable[[Any], list[Any]] | None = getattr(common, "decompose_descriptor", None)
    if decompose is not None:
        return decompose(descriptor)
    return list(nvidia.make_tensordesc_arg(descriptor, None))


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _offset(tensor: torch.Tensor) -> int:
    return int(tensor.storage_offset()) * int(tensor.element_size())


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from the first to the last element."""
    if not tensor.numel():
        return 0
    last: int = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * int(tensor.element_size())


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
