"""What surrounds a call: where its inputs lie, what its unused memory holds, what is sent back, what the process kept.

In: drawn arguments and a Placement. Out: the same values in the asked places; after the call, inputs, state and guard
bands as leaves for the judge, and a description of the process's own state. Left to others: the call itself, which is
one function for every purpose (`run`), and every judgement (`judge.structure`, `evaluate.structure`).
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from kernelevolve.protocol import Placement
from kernelevolve.tensors import bands, draw

Leaves = list[tuple[str, Any]]
COPIED_BYTES, POISONED_BYTES = 8 << 30, 1 << 30
_STATES = 64  # of generators, that are remembered
# Taken before foreign code runs: what it may put in their place is not called.
_clone, _detach, _empty, _set = torch.Tensor.clone, torch.Tensor.detach, torch.empty, torch.Tensor.set_
_copy, _storage = torch.Tensor.copy_, torch.Tensor.untyped_storage
_manual_seed, _cpu_state = torch.manual_seed, torch.get_rng_state


class Stage:
    """The places of one conversation's inputs."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.held: list[Leaves] = []
        self._kept: list[Any] = []
        self._blocks: dict[str, tuple[Any, int]] = {}  # block and first byte after its tensor

    def placed(self, arguments: list[Any], names: Sequence[str], how: Placement) -> list[Any]:
        """The arguments with the same values where `how` wants them.

        Args:
            names: of the flattened arguments.
        """
        leaves, tree = pytree.tree_flatten(arguments)
        self._blocks = self._blocks if how.slot == "same" else {}
        if how.slot == "same":
            if len(self._kept) != len(leaves):
                raise RuntimeError("no inputs are kept; ask for a call with the slot `kept` first")
            for place, leaf in zip(self._kept, leaves, strict=True):
                if isinstance(leaf, torch.Tensor):
                    overwrite(place, leaf)
            return list(pytree.tree_unflatten(self._kept, tree))
        made = [
            self._laid(name, leaf, how) if isinstance(leaf, torch.Tensor) and leaf.numel() else leaf
            for name, leaf in zip(names, leaves, strict=True)
        ]
        if how.slot == "kept":
            self._kept = made
        return list(pytree.tree_unflatten(made, tree))

    def _laid(self, name: str, leaf: Any, how: Placement) -> Any:
        values = _detach(leaf)
        layout = how.layouts.get(name, "")
        if layout == "transposed" and values.dim() > 1:
            values = _clone(values.transpose(-1, -2).contiguous()).transpose(-1, -2)
        elif layout == "offset" and values.dim():
            wide = torch.zeros((*values.shape[:-1], values.shape[-1] + 2), dtype=leaf.dtype, device=leaf.device)
            wide[..., 1:-1].copy_(values)
            values = wide[..., 1:-1]
        elif layout == "shifted":
            flat = torch.zeros(values.numel() + 1, dtype=leaf.dtype, device=leaf.device)
            values = flat[1:].view(values.shape).copy_(values)
        if how.bands is not None and not layout and not _overlapping(values):
            values = self._banded(name, values, how.bands)
        return values.requires_grad_() if leaf.requires_grad else values

    def _banded(self, name: str, values: Any, seed: int) -> Any:
        """The tensor with its own strides, between two bands in one block of memory."""
        band, size = bands.width(self.device), values.element_size()
        reach = 1 + sum((n - 1) * s for n, s in zip(values.shape, values.stride(), strict=True))
        end = band + reach * size
        block = _empty(end + band, dtype=torch.uint8, device=self.device)
        block[:band] = bands.pattern(seed, name, "low", self.device)
        block[end:] = bands.pattern(seed, name, "high", self.device)
        self._blocks[name] = block, end
        view = _empty(0, dtype=values.dtype, device=self.device)
        _set(view, _storage(block), band // size, values.shape, values.stride())
        _copy(view, values)
        return view

    def bands(self) -> Leaves:
        """The bytes of all bands as they are now."""
        band = bands.width(self.device)
        found: Leaves = []
        for name, (block, end) in self._blocks.items():
            found += [(f"band:low:{name}", block[:band]), (f"band:high:{name}", block[end:])]
        return found


def overwrite(place: Any, values: Any) -> None:
    """Other bytes in a tensor's memory, through an alias: its address and its version counter stay."""
    alias = _empty(0, dtype=place.dtype, device=place.device)
    _set(alias, _storage(place), place.storage_offset(), place.shape, place.stride())
    _copy(alias, _detach(values))


def _overlapping(values: Any) -> bool:
    return any(s == 0 and n > 1 for n, s in zip(values.shape, values.stride(), strict=True))


def snapshot(leaves: Leaves) -> Leaves:
    """Contiguous copies of the plain tensors among the leaves as they are at this moment, enqueued and not waited for;
    others as they are. Where memory is short, or they are very large, the originals stand in."""
    taken, room = [], COPIED_BYTES
    with torch.no_grad(), _disable_current_modes():
        for path, leaf in leaves:
            plain = type(leaf) in (torch.Tensor, torch.nn.Parameter) and leaf.layout is torch.strided
            room -= leaf.numel() * leaf.element_size() if plain else 0
            plain = plain and room >= 0
            try:
                copied = _clone(_detach(leaf), memory_format=torch.contiguous_format) if plain else leaf
            except torch.OutOfMemoryError:
                copied = leaf
            taken.append((path, copied))
    return taken


def poison_pool(shapes: Sequence[tuple[tuple[int, ...], Any]], fill: int | None, device: str) -> None:
    """Fills free memory of the caching allocator in which outputs of these shapes will lie; nothing on the CPU, where
    the interpreter fills what is allocated."""
    if device == "cpu":
        return
    if sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes) > POISONED_BYTES:
        return  # the judge works on the same device
    blocks = []
    source = None if fill is None else draw.generator(fill, "pool", device)
    for shape, dtype in shapes:
        for _ in range(2):
            try:
                block = _empty(shape, dtype=dtype, device=device)
            except torch.OutOfMemoryError:
                return
            raw = block.view(-1).view(torch.uint8)
            if source is None:
                raw.fill_(0xFF)
            else:
                raw.random_(0, 256, generator=source)
            blocks.append(block)


def process_state(device: str) -> dict[str, Any]:
    """What a candidate could leave behind in its process, by name; values that `!=` can compare."""
    matmul = torch.backends.cuda.matmul
    found: dict[str, Any] = {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "intra-op threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "allow_tf32": [_flag(matmul, "allow_tf32"), _flag(torch.backends.cudnn, "allow_tf32")],
        "reduced precision": [
            matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction,
        ],
        "threads": threading.active_count(),
        "open files": len(os.listdir("/proc/self/fd")),
        "children": len(children()),
    }  # fmt: skip
    if device.startswith("cuda"):
        found["default stream"] = torch.cuda.current_stream().cuda_stream
    return found


def _flag(owner: Any, name: str) -> Any:
    """A precision flag; torch refuses to tell it once the same was set by its newer interface."""
    try:
        return getattr(owner, name)
    except RuntimeError:
        return "set by another interface"


class RandomState:
    """What calls did to PyTorch's global generators.

    Each call begins in a state of its own. One that ends in another state than it began in drew numbers; two that began
    in different states and end in the same one were put there, as `torch.manual_seed` does.

    Attributes:
        seen: `kept`, `drawn` or `set`.
    """

    def __init__(self, device: str) -> None:
        self.device, self.seen = device, "kept"
        self._begun: list[bytes] = []
        # By generator: states after calls that did not keep theirs, and those before.
        self._ended: list[dict[bytes, bytes]] = [{}, {}]

    def begin(self, seed: int) -> None:
        """Before a call; each has another seed."""
        _manual_seed(seed)
        self._begun = self._now()

    def end(self) -> None:
        """After the call."""
        for before, now, ended in zip(self._begun, self._now(), self._ended, strict=False):
            if now == before:
                continue
            known = ended.setdefault(now, before)
            self.seen = "set" if known != before or self.seen == "set" else "drawn"
            while len(ended) > _STATES:
                del ended[next(iter(ended))]

    def _now(self) -> list[bytes]:
        states = [_cpu_state()]
        if self.device.startswith("cuda"):
            states.append(torch.cuda.get_rng_state(self.device))
        return [hashlib.sha256(bytes(s.numpy())).digest() for s in states]


def children() -> list[int]:
    """Process ids of this process's living children; zombies and their own children count too."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:
            continue  # that thread has ended, or this kernel does not tell
    return found


@contextmanager
def as_before(state: Mapping[str, Any]) -> Iterator[None]:
    """The state that drawing inputs depends on, as it was before foreign code ran; what that set returns after."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with torch.set_grad_enabled(bool(state["grad mode"])):
        torch.set_default_dtype(getattr(torch, str(state["default dtype"]).removeprefix("torch.")))
        moved = str(device) != state["default device"]
        if moved:
            torch.set_default_device(None)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if moved:
                torch.set_default_device(device)


def operators() -> frozenset[str]:
    """The names of all operators that PyTorch knows."""
    return frozenset(torch._C._dispatch_get_all_op_names())


class Calls(TorchDispatchMode):  # type: ignore[misc]
    """Notes the arguments of the first call of each of some operators."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names
        self.calls: dict[str, tuple[Any, Any, Any]] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op._schema.name
        if name in self.names or f"{name}.{op._overloadname}" in self.names:
            copied = pytree.tree_map(lambda t: _clone(t) if isinstance(t, torch.Tensor) else t, (args, kwargs or {}))
            self.calls.setdefault(name, (op, *copied))
        return op(*args, **(kwargs or {}))


def opcheck(op: Any, args: Any, kwargs: Any) -> str:
    """What `torch.library.opcheck` finds against one call of an operator; empty if nothing."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    found = torch.library.opcheck(op, args, kwargs, test_utils=tests, raise_exception=False)
    wrong = [f"{name}: {str(what).strip().splitlines()[0][:200]}" for name, what in found.items() if what != "SUCCESS"]
    return wrong[0] if wrong else ""
