"""LaunchPlans: what a candidate does for one workload at full size, recorded as data without running a kernel.

In: a candidate's module, the problem at full size as meta tensors, a stand-in device. Out: a LaunchPlan and the census
of ATen ops, and the recorded launches that `worker.build` compiles. Left to others: judging the census
(`evaluate.check`).

Signatures and specialisation come from Triton itself: `JITFunction.run` is called with `warmup=True` under a stand-in
driver, and its compile step is where they are taken.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from kernelevolve.evaluation import Buffer, Copy, Fill, Launch, LaunchPlan, Verdict
from kernelevolve.hardware import Target
from kernelevolve.worker.census import Census, moved_bytes
from kernelevolve.worker.fault import Fault, blame
from kernelevolve.worker.pose import posing

_MAX_LAUNCHES = 100_000


@dataclass(frozen=True)
class Compilable:
    """A launch as Triton specialised it, ready to be compiled: what `ASTSource` and the compiler take."""

    function: Any
    signature: Mapping[str, Any]
    constants: Mapping[Any, Any]
    attributes: Mapping[Any, Any]
    options: Any


@dataclass(frozen=True)
class LaunchStep:
    """A launch with the values that its arguments had."""

    compilable: Compilable
    bound: Mapping[str, Any]
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class OpStep:
    """An ATen op as the census names it."""

    name: str
    args: Any
    kwargs: Mapping[str, Any]
    result: Any


@dataclass
class Recording:
    """What one call of `forward` did.

    Attributes:
        steps: launches and ATen ops in the order in which they happened.
        given, result: what `forward` was given and gave.
        addresses: how often `forward` asked for a tensor's address.
    """

    compilables: list[Compilable] = field(default_factory=list)
    launches: list[tuple[Compilable, tuple[Any, ...], dict[str, Any], tuple[int, int, int]]] = field(
        default_factory=list
    )
    steps: list[LaunchStep | OpStep] = field(default_factory=list)
    given: Any = None
    result: Any = None
    addresses: int = 0
    census: Census = field(init=False)

    def __post_init__(self) -> None:
        self.census = Census(keep=True, note=lambda *seen: self.steps.append(OpStep(*seen)))

    @property
    def ops(self) -> dict[str, int]:
        """Count of each ATen op."""
        return self.census.ops

    def mark(self) -> tuple[int, int]:
        """How much was recorded so far."""
        return len(self.launches), len(self.steps)

    def cut(self, mark: tuple[int, int]) -> tuple[list[Any], list[Any]]:
        """What was recorded since `mark`, taken out: it was captured in a graph and did not run. Its kernels stay among
        what is built."""
        launches, steps = mark
        part = self.launches[launches:], self.steps[steps:]
        del self.launches[launches:], self.steps[steps:]
        return part

    def play(self, part: tuple[list[Any], list[Any]]) -> None:
        """A graph is replayed: what was captured in it runs."""
        self.launches += part[0]
        self.steps += part[1]

    @property
    def forbidden(self) -> list[str]:
        """See `Census.forbidden`."""
        leaves = torch.utils._pytree.tree_leaves
        return self.census.forbidden(leaves(self.given), leaves(self.result))


class StandInDriver:
    """What Triton's runtime asks a driver, answered for a device that is not here."""

    def __init__(self, target: Target, answers: Mapping[str, Any], index: int) -> None:
        self._target = GPUTarget(target.backend, target.arch, target.warp_size)
        self._index = index
        properties = {
            "multiprocessor_count": answers["multi_processor_count"],
            "max_shared_mem": answers["shared_memory_per_block_optin"],
            "warpSize": target.warp_size,
            "max_num_regs": answers.get("regs_per_multiprocessor", 65536),
            "sm_clock_rate": answers.get("clock_rate", 0),
            "mem_clock_rate": answers.get("memory_clock_rate", 0),
            "mem_bus_width": answers.get("memory_bus_width", 0),
        }
        self.utils = SimpleNamespace(get_device_properties=lambda device: properties)
        self._capability = (int(answers.get("major", 9)), int(answers.get("minor", 0)))

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._index

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        """There is only one."""

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return self._capability

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def get_device_interface(self) -> Any:
        return torch.cuda


@contextlib.contextmanager
def _recording_launches(recording: Recording, driver: StandInDriver) -> Iterator[None]:
    run, compile_step = JITFunction.run, JITFunction._do_compile
    seen: list[Compilable] = []

    def take(
        self: Any, key: Any, signature: Any, device: Any, constexprs: Any, options: Any, attrs: Any, warmup: Any
    ) -> None:
        seen.append(Compilable(self, dict(signature), dict(constexprs), dict(attrs), options))

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if len(recording.launches) >= _MAX_LAUNCHES:
            raise Fault(Verdict.TIMEOUT, f"more than {_MAX_LAUNCHES} launches in one forward")
        seen.clear()
        run(self, *args, grid=grid, warmup=True, **kwargs)
        if not seen:
            raise Fault(Verdict.COMPILE_ERROR, f"kernel {self.__name__} was not specialised by Triton")
        compilable = seen[-1]
        bound = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in self.arg_names}
        if callable(grid):
            grid = grid({**bound, **kwargs})
        sizes = tuple(int(g) for g in grid) if isinstance(grid, (tuple, list)) else (int(grid),)
        x, y, z = (*sizes, 1, 1, 1)[:3]
        _check_grid(self.__name__, (x, y, z))
        recording.compilables.append(compilable)
        recording.launches.append((compilable, tuple(bound.values()), bound, (x, y, z)))
        # A pre-hook may give one descriptor another block shape before the next launch.
        held = {k: copy.copy(v) if hasattr(v, "block_shape") else v for k, v in bound.items()}
        recording.steps.append(LaunchStep(compilable, held, (x, y, z)))
        return None

    # `reset_active` would look for a real driver, which a machine without a device does not have.
    previous = triton.runtime.driver._active
    JITFunction.run, JITFunction._do_compile = record, take
    triton.runtime.driver.set_active(driver)
    try:
        yield
    finally:
        JITFunction.run, JITFunction._do_compile = run, compile_step
        triton.runtime.driver._active = previous


_GRID_LIMIT = (2**31 - 1, 65535, 65535)


def _check_grid(kernel: str, grid: tuple[int, int, int]) -> None:
    for axis, (size, limit) in enumerate(zip(grid, _GRID_LIMIT, strict=True)):
        if not 0 <= size <= limit:
            raise Fault(
                Verdict.CRASH, f"kernel {kernel}: grid {grid} has {size} programs in axis {axis}, at most {limit}"
            )


def record_plan(
    model: torch.nn.Module,
    inputs: tuple[list[Any], dict[str, Any]],
    *,
    workload: str,
    platform: str,
    target: Target,
    answers: Mapping[str, Any],
    device_index: int,
) -> tuple[LaunchPlan, Recording]:
    """The plan of one `forward` at full size on meta tensors.

    Args:
        model: `ModelNew` on the meta device.
        inputs: positional and keyword arguments of `forward`, tensors on the meta device.
        device_index: a different one for each platform, since Triton keeps its specialisations by device.

    Raises:
        Fault: what the candidate's host code did wrong.
    """
    recording = Recording(given=inputs)
    driver = StandInDriver(target, answers, device_index)
    args, kwargs = inputs
    try:
        recorded = _recording_launches(recording, driver)
        with torch.no_grad(), posing(answers, recording) as pose, recorded, recording.census:
            result = model(*args, **kwargs)
            recording.result, recording.addresses = result, pose.addresses
    except (Exception, SystemExit) as error:
        raise blame(error, Verdict.CRASH) from error
    return _plan(model, args, kwargs, result, recording, workload, platform), recording


def _plan(
    model: torch.nn.Module,
    args: list[Any],
    kwargs: dict[str, Any],
    result: Any,
    recording: Recording,
    workload: str,
    platform: str,
) -> LaunchPlan:
    buffers: dict[int, Buffer] = {}

    def name(tensor: torch.Tensor, label: str, role: Any) -> None:
        key = tensor.untyped_storage()._cdata
        if key not in buffers:
            dtype = str(tensor.dtype).removeprefix("torch.")
            buffers[key] = Buffer(label, tuple(tensor.shape), tuple(tensor.stride()), dtype, role)

    leaves = torch.utils._pytree.tree_leaves((args, kwargs))
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor):
            name(leaf, f"input{i}", "input")
    for label, tensor in (*model.named_parameters(), *model.named_buffers()):
        name(tensor, label, "parameter")
    for i, leaf in enumerate(torch.utils._pytree.tree_leaves(result)):
        if issubclass(type(leaf), torch.Tensor):  # `isinstance` believes an object that says it is one
            name(leaf, f"output{i}", "output")
    copies = []
    for copied in recording.census.copies:
        for tensor in (copied.source, copied.target):
            name(tensor, f"scratch{len(buffers)}", "scratch")
        target, source = (buffers[t.untyped_storage()._cdata].name for t in (copied.target, copied.source))
        copies.append(Copy(target, source, moved_bytes(copied.source), moved_bytes(copied.target)))
    launches = []
    for compilable, _, bound, grid in recording.launches:
        for value in map(_tensor_of, bound.values()):
            if value is not None:
                name(value, f"scratch{len(buffers)}", "scratch")
        launches.append(_launch(compilable, bound, grid, buffers))
    fills = [
        Fill(buffers[t.untyped_storage()._cdata].name, v)
        for t, v in recording.census.fills
        if t.untyped_storage()._cdata in buffers
    ]
    return LaunchPlan(workload, platform, tuple(buffers.values()), tuple(launches), tuple(fills), tuple(copies))


def _launch(
    compilable: Compilable, bound: Mapping[str, Any], grid: tuple[int, int, int], buffers: Mapping[int, Buffer]
) -> Launch:
    arguments: dict[str, Any] = {}
    for name, value in bound.items():
        tensor = _tensor_of(value)
        if tensor is not None:
            key = tensor.untyped_storage()._cdata
            arguments[name] = f"buffer {buffers[key].name}+{tensor.storage_offset() * tensor.element_size()}"
        else:
            arguments[name] = value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
    names = compilable.function.arg_names
    constants = {names[k[0]] if len(k) == 1 else str(k): _plain(v) for k, v in compilable.constants.items()}
    attributes = {names[k[0]] if len(k) == 1 else str(k): str(v) for k, v in compilable.attributes.items()}
    signature = {k: str(v) for k, v in compilable.signature.items()}
    kept = ("num_warps", "num_stages", "num_ctas", "maxnreg", "waves_per_eu", "matrix_instr_nonkdim", "kpack")
    options = {k: v for k in kept if (v := getattr(compilable.options, k, None)) is not None}
    return Launch(compilable.function.__name__, signature, constants, attributes, arguments, grid, options)


def _tensor_of(value: Any) -> torch.Tensor | None:
    """The tensor of an argument: itself, or the base of a tensor descriptor."""
    found = value if isinstance(value, torch.Tensor) else getattr(value, "base", None)
    return found if isinstance(found, torch.Tensor) else None


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def candidate_kernels(module: ModuleType) -> list[str]:
    """Names of the jitted functions that the candidate's file defines."""
    return [
        n
        for n, v in vars(module).items()
        if isinstance(v, JITFunction) or isinstance(getattr(v, "fn", None), JITFunction)
    ]
