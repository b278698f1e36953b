"""Launches under the interpreter: arguments become values, the grid runs program by program.

Comes in: a kernel, a grid and the arguments of a launch. Goes out: memory changed, counts in the `Recorder`. Which
processes interpret, and what the host code sees of a device, are left to `masquerade` and the caller.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from .builder import Builder, Descriptor, Options
from .compat import TensorDescriptor, TensorWrapper, ir, tl
from .errors import CannotBeSeen, TooManyPrograms
from .language import Language
from .memory import Memory
from .rewrite import Rewritten
from .semantic import DescriptorValue, Tensor, plain, pointer_tensor
from .values import Region

NOT_SEEN = (
    "races between programs or threads: programs run one after another, each in lock step",
    "warps, stages, clusters and other launch options, and whether they fit the device",
    "the order in which reductions and tensor cores sum, and the width of their adders",
    "error of approximate hardware functions (exp, log, sin, division, rsqrt): they are given correctly rounded",
    "wrapping of unsigned and 64-bit indices",
    "an access outside a view but inside its tensor's storage",
    "flushing of denormal float32 values to zero",
    "time",
)
_ADDRESS_ONLY = (
    "values: nothing is read, loads give zero",
    "addresses that depend on loaded data",
    "programs between the chosen ones",
)

_TYPES: dict[torch.dtype, Any] = {
    torch.bool: tl.int1,
    torch.int8: tl.int8,
    torch.uint8: tl.uint8,
    torch.int16: tl.int16,
    torch.uint16: tl.uint16,
    torch.int32: tl.int32,
    torch.uint32: tl.uint32,
    torch.int64: tl.int64,
    torch.uint64: tl.uint64,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.float8_e4m3fn: tl.float8e4nv,
    torch.float8_e5m2: tl.float8e5,
    torch.float8_e4m3fnuz: tl.float8e4b8,
    torch.float8_e5m2fnuz: tl.float8e5b16,
}

# Where tensors without memory are put: far from any real address, a guard of one page group between two.
_VIRTUAL_BASE = 1 << 60
_VIRTUAL_GUARD = 1 << 21


@dataclass(frozen=True)
class InterpretReport:
    """What interpreting did: programs run, seconds inside launches, what could not be seen, launches made."""

    programs: int
    seconds: float
    not_seen: tuple[str, ...]
    launches: int


class Recorder:
    """Counts of one `interpreting` context, and the addresses it knows."""

    def __init__(self, program_limit: int | None, poison: bool, address_only: bool, options: Options) -> None:
        self.options = options
        self.program_limit = program_limit
        self.poison = poison
        self.fill: torch.Generator | None = None  # what uninitialised memory holds in place of NaN
        self.address_only = address_only
        self.programs = 0
        self.launches = 0
        self.seconds = 0.0
        self.memory = Memory(poison, address_only)
        self.memory.allocations = self._known_allocations
        self.printed: list[str] = []
        self._notes: dict[str, None] = {}
        self._virtual: dict[int, tuple[Any, int]] = {}
        self._next_virtual = _VIRTUAL_BASE
        self._allocations: dict[int, weakref.ref[torch.Tensor]] = {}

    def note(self, what: str) -> None:
        """Adds to what could not be seen."""
        self._notes[what] = None

    @property
    def report(self) -> InterpretReport:
        fixed = NOT_SEEN + (_ADDRESS_ONLY if self.address_only else ())
        return InterpretReport(self.programs, self.seconds, fixed + tuple(self._notes), self.launches)

    def remember(self, tensor: torch.Tensor) -> None:
        """Makes the storage of ``tensor`` known to accesses whose pointer came from memory; it is not kept alive."""
        self._allocations[id(tensor)] = weakref.ref(tensor)

    def _known_allocations(self) -> list[Region]:
        alive = (ref() for ref in self._allocations.values())
        return [self.region(t, "an earlier allocation") for t in alive if t is not None and t.device.type == "cpu"]

    def region(self, tensor: torch.Tensor, name: str) -> Region:
        """The storage of ``tensor`` as a region; a tensor without memory gets an address of its own."""
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        if tensor.device.type != "meta":
            low = storage.data_ptr()
        elif storage._cdata in self._virtual:
            low = self._virtual[storage._cdata][1]
        else:
            low = self._next_virtual
            self._next_virtual += (size // _VIRTUAL_GUARD + 2) * _VIRTUAL_GUARD
            self._virtual[storage._cdata] = (storage, low)
        return Region(low, low + size, low + tensor.storage_offset() * tensor.element_size(), name)


class Engine:
    """Runs kernels; one for the process, lent to one context at a time."""

    def __init__(self) -> None:
        self.builder = Builder(Memory(poison=False, address_only=True))
        self.language = Language(self.builder, self.call)
        self._rewritten: dict[int, tuple[Any, Rewritten]] = {}
        self._fresh: set[int] = set()
        self._running = False

    def rewritten(self, kernel: Any) -> Rewritten:
        known = self._rewritten.get(id(kernel))
        if known is None:
            known = self._rewritten[id(kernel)] = (kernel, Rewritten(kernel, self.language))
            self._fresh.add(id(kernel))
        elif id(kernel) not in self._fresh:
            known[1].refresh()
            self._fresh.add(id(kernel))
        return known[1]

    def call(self, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        """A kernel function called from kernel code; host code must launch it."""
        if not self._running:
            raise RuntimeError(
                f"cannot call @triton.jit function {kernel.fn.__name__} from host code; launch it on a grid"
            )
        return self.rewritten(kernel).run(*args, **kwargs)

    def launch(self, recorder: Recorder, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """``kernel[grid](*args, **kwargs)``; launch options are ignored.

        Raises the faults of `errors`, and whatever the kernel's own code raises.
        """
        self._fresh.clear()
        self.language.semantic.forget()
        ready = self.rewritten(kernel)
        known = ready.signature.parameters
        bound = ready.signature.bind(*args, **{k: v for k, v in kwargs.items() if k in known})
        bound.apply_defaults()
        given = dict(bound.arguments)
        sizes = _grid(grid({**kwargs, **given}) if callable(grid) else grid)
        # What a kernel computes is none of the candidate's ATen ops: a census outside must not count it.
        with _disable_current_modes(), torch._C.DisableTorchFunction(), np.errstate(all="ignore"):
            arguments = _Arguments(self, recorder, ready)
            values = {name: arguments.convert(name, value) for name, value in given.items()}
            recorder.memory.regions = arguments.regions
            self._target(recorder, kwargs)
            self._run(recorder, ready, sizes, values)

    def _target(self, recorder: Recorder, kwargs: dict[str, Any]) -> None:
        """What the language asks of the target, and the warps of this launch."""
        warps = int(kwargs.get("num_warps", Options.num_warps))
        self.builder.options = replace(recorder.options, num_warps=warps)

    def _run(self, recorder: Recorder, ready: Rewritten, sizes: tuple[int, int, int], values: dict[str, Any]) -> None:
        builder = self.builder
        builder.memory, builder.grid, builder.printed = recorder.memory, sizes, recorder.printed
        total = sizes[0] * sizes[1] * sizes[2]
        programs: Iterable[tuple[int, ...]]
        if recorder.address_only:
            programs = chosen_programs(sizes)
            if recorder.program_limit is not None:
                programs = programs[: max(0, recorder.program_limit - recorder.programs)]
        else:
            left = None if recorder.program_limit is None else recorder.program_limit - recorder.programs
            if left is not None and total > left:
                raise TooManyPrograms(ready.fn.__name__, total, left)
            programs = ((x, y, z) for z, y, x in itertools.product(*(range(s) for s in reversed(sizes))))
        run: Callable[..., Any] = ready.run
        start = time.perf_counter()
        recorder.launches += 1
        self._running = True
        try:
            for program in programs:
                builder.program = program  # type: ignore[assignment]
                builder.checked = False
                run(**values)
                recorder.programs += 1
        finally:
            self._running = False
            recorder.seconds += time.perf_counter() - start


def chosen_programs(sizes: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The corners of a grid, the neighbours of the first and last program, and its middle."""
    if 0 in sizes:
        return []
    corners = list(itertools.product(*({0: None, s - 1: None} for s in sizes)))
    x, y, z = sizes
    linear = {1, x * y * z // 2, max(0, x * y * z - 2)}
    inner = [(n % x, n // x % y, n // (x * y)) for n in sorted(linear) if n < x * y * z]
    return list(dict.fromkeys([*corners, *inner]))


def _grid(grid: Any) -> tuple[int, int, int]:
    sizes = tuple(int(plain(g)) for g in (grid if isinstance(grid, (tuple, list)) else (grid,)))
    if not 1 <= len(sizes) <= 3 or any(s < 0 for s in sizes):
        raise ValueError(f"a grid has one to three sizes, none negative; got {sizes}")
    return (*sizes, 1, 1)[:3]  # type: ignore[return-value]


class _Arguments:
    """The arguments of one launch as the kernel sees them."""

    def __init__(self, engine: Engine, recorder: Recorder, ready: Rewritten) -> None:
        self.engine = engine
        self.recorder = recorder
        self.ready = ready
        self.regions: list[Region] = []

    def convert(self, name: str, value: Any) -> Any:
        if name in self.ready.constexprs:
            return self.engine.language.resolve(plain(value))
        annotation = self.ready.signature.parameters[name].annotation
        return self._value(name, value, annotation if isinstance(annotation, tl.dtype) else None)

    def _value(self, name: str, value: Any, wanted: Any = None) -> Any:
        value = plain(value)
        if isinstance(value, TensorWrapper):
            return self._pointer(name, value.base, value.dtype)
        if isinstance(value, torch.Tensor):
            return self._pointer(name, value, _element_type(value.dtype))
        if isinstance(value, TensorDescriptor):
            return self._descriptor(name, value)
        if isinstance(value, (bool, int, float)):
            return self._number(value, wanted)
        if isinstance(value, tuple):
            values = [self._value(f"{name}[{i}]", v) for i, v in enumerate(value)]
            return type(value)(*values) if hasattr(value, "_fields") else tuple(values)
        if hasattr(value, "data_ptr"):
            raise CannotBeSeen(f"argument {name!r} of type {type(value).__name__}", "the launch")
        return self.engine.language.resolve(value)

    def _pointer(self, name: str, tensor: torch.Tensor, element: Any) -> Tensor:
        region = self.recorder.region(tensor, name)
        self.regions.append(region)
        return pointer_tensor(region.first, element, region)

    def _number(self, value: Any, wanted: Any) -> Tensor:
        semantic = self.engine.language.semantic
        if isinstance(value, bool):
            ty = tl.int1
        elif isinstance(value, float):
            ty = wanted if wanted is not None and wanted.is_floating() else tl.float32
        elif wanted is not None and wanted.is_int():
            ty = wanted
        elif -(2**31) <= value < 2**31:
            ty = tl.int32
        else:
            ty = tl.int64 if value < 2**63 else tl.uint64
        return Tensor(getattr(semantic.builder, f"get_{ty.name}")(value), ty)

    def _descriptor(self, name: str, value: Any) -> DescriptorValue:
        base = self._value(name, value.base)
        shape = [self._number(int(s), tl.int32) for s in value.shape]
        strides = [self._number(int(s), tl.int64) for s in value.strides]
        padding = ir.PADDING_OPTION.PAD_NAN if value.padding == "nan" else ir.PADDING_OPTION.PAD_ZERO
        handle: Descriptor = self.engine.builder.create_make_tensor_descriptor(
            base.handle, [s.handle for s in shape], [s.handle for s in strides], value.block_shape, True, padding
        )
        if getattr(value, "round_f32_to_tf32", False):
            handle = Descriptor(handle.base, handle.shape, handle.strides, handle.block_shape, handle.padding, True)
        block = tl.block_type(base.dtype.element_ty, [int(b) for b in value.block_shape])
        return DescriptorValue(handle, shape, strides, block)


def _element_type(dtype: torch.dtype) -> Any:
    if dtype not in _TYPES:
        raise CannotBeSeen(f"a tensor of {dtype}", "the launch")
    return _TYPES[dtype]
