"""The launch-plan lane: carries out a PackedPlan with memory of its own, so that no candidate's Python runs here.

In: an `Opened`, a PackedPlan and its binaries (claims, see `claims`), a driver. Out: for a Case the outputs, and what
the call changed; a function for the clock. Left to others: comparing (`reference`, in a child of its own: a kernel
reaches all memory of the process that launches it, and the oracle must not lie there), clock and ring (`tensors`).

Before each verified call, and before each burst of timed ones, the modules are loaded afresh and all memory that the
call would allocate is filled with 0xFF (NaN in every floating type): neither a kernel's global variables nor what an
earlier call left behind can carry a result over. In verified calls every piece of memory lies between guard bands,
whose bytes are looked at afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve import codec
from kernelevolve.evaluation import Verdict
from kernelevolve.judge import claims, cubin
from kernelevolve.judge.claims import NotCovered, PlanFault
from kernelevolve.judge.driver import THREADS_PER_WARP, Driver, DriverRefused, Shape
from kernelevolve.judge.memory import Guarded, strided
from kernelevolve.judge.parameters import parameter_bytes
from kernelevolve.packed import PackedCopy, PackedFill, PackedLaunch, PackedPlan, View
from kernelevolve.protocol import Case, Opened
from kernelevolve.tensors import draw, load
from kernelevolve.tensors.outputs import dtype_of, shared_memory

POISON = 0xFF
MOST_PREPARED = 20_000  # launches that are prepared again before a burst, which takes about a second
MEMORY_SHARE = 0.5  # of what is free: the ring of inputs needs the rest
CPU_MEMORY = 1 << 30
Leaves = list[tuple[str, Any]]


@dataclass(frozen=True)
class Replayed:
    """One call's outputs by path, the inputs and parameters that it changed, outputs that share an input's memory."""

    leaves: Leaves
    changed: list[str]
    aliases: list[tuple[str, str]]


@dataclass(frozen=True)
class _Bound:
    """What is prepared for one set of arguments, which are held so that their identity is theirs alone."""

    arguments: Sequence[Any]
    owned: Mapping[str, Guarded]
    steps: list[Callable[[], None]]
    outputs: list[Any]


@dataclass(frozen=True)
class _Memory:
    """Where each piece of memory of one call lies: its address, and the tensor of a view of it."""

    addresses: Mapping[str, int]
    view: Callable[[View], Any]


class PlanArm:
    """A plan, ready to be called on one device.

    Args:
        opened: the problem at full size on a device; candidate and choice are not looked at.
        binaries: by digest.
        driver: of that device.
        limits: of that device; by default what it says.

    Raises:
        PlanFault: the plan is not one that an honest builder writes.
        NotCovered: the lane cannot carry it out.
    """

    def __init__(
        self,
        opened: Opened,
        plan: PackedPlan,
        binaries: Mapping[str, bytes],
        driver: Driver,
        limits: claims.Limits | None = None,
    ) -> None:
        self.opened, self.plan, self.binaries, self.driver = opened, plan, binaries, driver
        self.device = opened.device
        if opened.direction != "forward":
            raise NotCovered(f"direction {opened.direction}: what autograd runs is not recorded")
        load.set_precision(opened.precision)
        variant = opened.description.variant
        self.problem = load.load_module(variant.source, variant.label)
        self._model = load.build_model(
            self.problem, seed=opened.module_seed, device=self.device, precision=opened.precision, mode=opened.mode
        )
        self._state = dict(claims.held(self._model))
        shapes = {name: tuple(tensor.shape) for name, tensor in self._state.items()}
        claims.check(plan, binaries, opened.description, shapes, limits or limits_of(self.device))
        self._trained = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        self._built = {name: tensor.detach().clone() for name, tensor in self._state.items()}
        scratch = {s.name: s.nbytes for s in plan.stores if s.role == "scratch"}
        self._results = {o.view.store: scratch[o.view.store] for o in plan.outputs if o.view.store in scratch}
        kept = [s for s in plan.stores if s.role != "input" and s.name not in self._results]
        self._owned = {s.name: Guarded(s.nbytes, self.device) for s in kept}
        self._scratches = [self._owned[s.name] for s in kept if s.role == "scratch"]
        self._kernel_scratch = self._allocate_kernel_scratch()
        self._modules: dict[str, Any] = {}
        self._functions: list[Any] = []
        self._bound: dict[tuple[int, ...], _Bound] = {}

    def _allocate_kernel_scratch(self) -> Guarded:
        most = 1
        for step in self.plan.steps:
            if isinstance(step, PackedLaunch):
                most = max(most, sum(_scratch_sizes(step, self.plan)))
        return Guarded(most, self.device)

    def fresh(self) -> None:
        """Loads all modules again and poisons what a call would allocate.

        Where that would mean preparing very many launches again, the modules of a timing stay.

        Raises:
            PlanFault: the driver does not load a binary, or its kernel takes other parameters than the plan gives.
        """
        own = [g for bound in self._bound.values() for g in bound.owned.values()]
        for guarded in (*self._scratches, self._kernel_scratch, *own):
            guarded.bytes.fill_(POISON)
        if self._modules and len(self.plan.steps) * len(self._bound) > MOST_PREPARED:
            return
        try:
            self._unload()
            for kernel in self.plan.kernels:
                if kernel.digest not in self._modules:
                    self._modules[kernel.digest] = self.driver.load(self.binaries[kernel.digest])
                function = self.driver.function(self._modules[kernel.digest], kernel.symbol, kernel.shared)
                self._functions.append(function)
                sizes = tuple(self.driver.parameter_sizes(function))
                # The driver's reading of the binary counts: two readers of one file may differ where it is crafted.
                read = cubin.parameter_sizes(self.binaries[kernel.digest], kernel.symbol)
                if sizes != read:
                    raise PlanFault(
                        Verdict.TAMPER, f"kernel {kernel.symbol!r}: the driver sees parameters of {list(sizes)} bytes"
                    )
        except DriverRefused as error:
            raise PlanFault(Verdict.CRASH, f"a binary of the plan cannot be loaded: {error}") from error
        self._bound = {key: self._bind(bound.arguments, bound.owned) for key, bound in self._bound.items()}

    def _unload(self) -> None:
        modules, self._modules, self._functions = list(self._modules.values()), {}, []
        for module in modules:
            self.driver.unload(module)

    def try_on(self, case: Case) -> None:
        """Prepares one call and does none of it: what the lane cannot carry out shows here.

        Raises:
            NotCovered: an address or a layout is not what the kernels were compiled for.
            PlanFault: see `fresh`.
        """
        self.fresh()
        self._bind(self.inputs(case), self._own_results())

    def replay(self, case: Case, state: Sequence[str] = ()) -> Replayed:
        """One verified call on the inputs and the state of `case`.

        Args:
            state: `state:NAME` and `input:NAME` that the reference changes and that count as outputs.

        Raises:
            PlanFault: it writes outside its memory, or crashes.
        """
        self.restore(case)
        self._bound.clear()
        self.fresh()
        guards, arguments = self._guarded_inputs(self.inputs(case))
        leaves = pytree.tree_leaves(arguments)
        named = [(s.name, leaf) for s, leaf in zip(self.opened.description.inputs, leaves, strict=True)]
        trained = [(n, t) for n, t in self._parameters() if n in self._trained]
        watched = [(n, t) for n, t in (*named, *trained) if isinstance(t, torch.Tensor)]
        before = [t.detach().clone() for _, t in watched]
        outputs: Leaves = self.guarded(lambda: self.leaves(self(*arguments)))
        own = [g for bound in self._bound.values() for g in bound.owned.values()]
        for guarded in (*guards, *self._owned.values(), *own, self._kernel_scratch):
            if not guarded.intact:
                raise PlanFault(Verdict.MEM_RACE, "a kernel wrote outside the memory that it was given")
        changed = [n for (n, t), was in zip(watched, before, strict=True) if not _same(t, was)]
        found = {f"state:{n}": t for n, t in self._parameters()} | {f"input:{n}": t for n, t in named}
        extra = [(path, found[path]) for path in state if path in found]
        aliases = self._aliases(outputs, named)
        return Replayed([*outputs, *extra], changed, aliases)

    def _aliases(self, outputs: Leaves, named: Leaves) -> list[tuple[str, str]]:
        """Outputs that share memory with an input; a parameter's is the plan's own business."""
        return shared_memory(outputs, [(n, t) for n, t in named if isinstance(t, torch.Tensor)])

    def guarded(self, work: Callable[[], Any]) -> Any:
        """`work()`, until the device has finished it; what the plan does wrong there is its fault.

        Raises:
            PlanFault: `CRASH`.
        """
        try:
            result = work()
            if self.device.startswith("cuda"):
                torch.cuda.synchronize(self.device)
        except DriverRefused as error:
            raise PlanFault(Verdict.CRASH, f"a launch of the plan was refused: {error}") from error
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # CUDA reports a kernel's fault wherever the device is next asked for anything
            raise PlanFault(Verdict.CRASH, f"a kernel of the plan crashed: {load.first_line(error)}") from error
        return result

    def forget(self) -> None:
        """Gives up what is prepared for earlier arguments."""
        self._bound.clear()

    def restore(self, case: Case) -> None:
        """Gives the parameters the reference's values for `case`."""
        drawn = draw.draw_state(self.opened.description.state, case, self.device)
        with torch.no_grad():
            for name, tensor in self._state.items():
                tensor.copy_(self._built[name])
            draw.apply_state(self._model, drawn)
            for name, tensor in self._parameters():
                tensor.copy_(self._state[name])

    def _parameters(self) -> Leaves:
        """The plan's own copies of the parameters that it uses."""
        return [
            (s.name, strided(self._owned[s.name].bytes, 0, s.shape, s.stride, dtype_of(s.dtype)))
            for s in self.plan.stores
            if s.role == "parameter"
        ]

    def inputs(self, case: Case) -> list[Any]:
        """Forward's arguments for `case`."""
        return draw.draw_inputs(self.opened.description, case, self.device, self.problem)

    def _guarded_inputs(self, arguments: Sequence[Any]) -> tuple[list[Guarded], list[Any]]:
        """The same arguments in memory between guard bands; repeated elements stay where they are."""
        guards: list[Guarded] = []
        leaves, tree = pytree.tree_flatten(list(arguments))
        moved = []
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor) or 0 in leaf.stride() or not leaf.numel():
                moved.append(leaf)
                continue
            dtype = str(leaf.dtype).removeprefix("torch.")
            guarded = Guarded(claims.extent(leaf.shape, leaf.stride(), dtype), self.device)
            guards.append(guarded)
            moved.append(strided(guarded.bytes, 0, leaf.shape, leaf.stride(), leaf.dtype))
            moved[-1].copy_(leaf)
        return guards, list(pytree.tree_unflatten(moved, tree))

    def __call__(self, *arguments: Any) -> list[Any]:
        """One call on these arguments; its outputs are overwritten by the next one on the same arguments.

        What is prepared for a set of arguments, outputs included, is kept as long as this lives: a ring's slots come
        again and again.
        """
        key = tuple(id(a) for a in arguments)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(arguments, self._own_results())
        for step in bound.steps:
            step()
        return bound.outputs

    def _own_results(self) -> dict[str, Guarded]:
        """New poisoned memory for the outputs of one set of arguments.

        Raises:
            PlanFault: `OOM` where the outputs of all slots of a ring do not fit.
        """
        made = {}
        for name, nbytes in self._results.items():
            if nbytes > limits_of(self.device).memory:
                raise PlanFault(Verdict.OOM, f"no room for {nbytes} bytes of results for each slot of the ring")
            made[name] = Guarded(nbytes, self.device)
            made[name].bytes.fill_(POISON)
        return made

    def _bind(self, arguments: Sequence[Any], owned: Mapping[str, Guarded]) -> _Bound:
        memory = self._memory(arguments, owned)
        outputs = [memory.view(output.view) for output in self.plan.outputs]
        return _Bound(arguments, owned, self._steps(memory), outputs)

    def leaves(self, result: Sequence[Any]) -> Leaves:
        """The outputs of one call by path."""
        return [(output.path, leaf) for output, leaf in zip(self.plan.outputs, result, strict=True)]

    def _memory(self, arguments: Sequence[Any], own: Mapping[str, Guarded]) -> _Memory:
        leaves = pytree.tree_leaves(list(arguments))
        given: dict[str, Any] = {}
        for i, (spec, leaf) in enumerate(zip(self.opened.description.inputs, leaves, strict=True)):
            if isinstance(leaf, torch.Tensor):
                if tuple(leaf.shape) != spec.shape or not claims.same_layout(spec.shape, leaf.stride(), spec.stride):
                    raise NotCovered(
                        f"input {spec.name} has the strides {list(leaf.stride())}, not {list(spec.stride)}"
                    )
                given[f"input{i}"] = leaf
        owned = {**self._owned, **own}
        addresses = {name: guarded.address for name, guarded in owned.items()}
        addresses |= {name: int(leaf.data_ptr()) for name, leaf in given.items()}

        def view(wanted: View) -> Any:
            if wanted.store not in given:
                return owned[wanted.store].view(wanted)
            leaf, dtype = given[wanted.store], dtype_of(wanted.dtype)
            if dtype is leaf.dtype:
                start = leaf.storage_offset() + wanted.offset // leaf.element_size()
                return leaf.as_strided(wanted.shape, wanted.stride, start)
            start = leaf.storage_offset() * leaf.element_size() + wanted.offset
            flat = torch.empty(0, dtype=dtype, device=leaf.device)
            return flat.set_(leaf.untyped_storage(), start // dtype.itemsize, wanted.shape, wanted.stride)

        return _Memory(addresses, view)

    def _steps(self, memory: _Memory) -> list[Callable[[], None]]:
        made: list[Callable[[], None]] = []
        for step in self.plan.steps:
            if isinstance(step, PackedFill):
                made.append(_fill(memory.view(step.view), step.value))
            elif isinstance(step, PackedCopy):
                made.append(_copy(memory.view(step.target), memory.view(step.source)))
            elif all(step.grid):
                made.append(self._launch(step, memory))
        return made

    def _launch(self, step: PackedLaunch, memory: _Memory) -> Callable[[], None]:
        kernel = self.plan.kernels[step.kernel]
        x, y, z = step.grid
        shape = Shape(
            (x * kernel.ctas, y, z),
            THREADS_PER_WARP * kernel.warps,
            kernel.shared,
            kernel.ctas,
            kernel.cooperative,
            kernel.dependent,
        )
        first, second = _scratch_sizes(step, self.plan)
        scratch = self._kernel_scratch.address
        places = {"global scratch": scratch if first else 0, "profile scratch": scratch + first if second else 0}
        try:
            values = [parameter_bytes(p, memory.addresses, places, self.driver) for p in step.parameters]
            return self.driver.prepare(self._functions[step.kernel], shape, values)
        except DriverRefused as error:
            raise PlanFault(Verdict.CRASH, f"kernel {kernel.symbol!r} cannot be launched: {error}") from error


def _scratch_sizes(step: PackedLaunch, plan: PackedPlan) -> tuple[int, int]:
    """Bytes of global and profile scratch of a launch; the first rounded up so that the second begins aligned."""
    kernel = plan.kernels[step.kernel]
    blocks = step.grid[0] * step.grid[1] * step.grid[2] * kernel.ctas
    first = -(-blocks * kernel.scratch_bytes // claims.ALIGNED) * claims.ALIGNED
    return first, blocks * kernel.profile_bytes


def _fill(target: Any, value: bool | int | float) -> Callable[[], None]:
    def go() -> None:
        target.fill_(value)

    return go


def _copy(target: Any, source: Any) -> Callable[[], None]:
    def go() -> None:
        target.copy_(source)

    return go


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors of one shape hold the same bytes, NaN included."""
    if not a.numel():
        return True
    first, second = a.detach().contiguous().view(-1), b.detach().contiguous().view(-1)
    return bool(torch.equal(first.view(torch.uint8), second.view(torch.uint8)))


def limits_of(device: str) -> claims.Limits:
    """What this device gives to a plan."""
    if not device.startswith("cuda"):
        return claims.Limits(227 << 10, CPU_MEMORY)
    properties = torch.cuda.get_device_properties(device)
    shared = int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))
    target = f"sm_{properties.major}{properties.minor}"
    return claims.Limits(shared, int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]), target)


def read(data: Any) -> PackedPlan:
    """The plan in a message's body.

    Raises:
        PlanFault: it is none.
    """
    try:
        return codec.from_data(PackedPlan, data)
    except (ValueError, TypeError, RecursionError) as error:
        raise PlanFault(Verdict.TAMPER, f"a plan that cannot be read: {str(error)[:200]}") from error
