"""The census of ATen ops: what a candidate's `forward` asks of PyTorch beside launching its kernels.

In: one call of `forward`, on meta tensors or on real ones. Out: op counts, copies, and what is no view, no allocation,
no fill and no copy that may be. Left to others: whether such an op is allowed (the host, by the problem's policy).

A copy moves bytes and computes nothing, so a candidate may take one of an input that lies otherwise than its kernels
read it (`x.contiguous()`), of weights that it packs, or of a result. But moving is the work of some problems (a
transposition, a concatenation, a broadcast), so what a call gives back is written by kernels: a copy that changes the
order of elements, repeats them or fills a part of a tensor must not end in an output or an input, neither by itself nor
through other copies. One that changes the dtype rounds, which is arithmetic; one that leaves the device waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Copied:
    """One copy: `source` into `target`, and whether it laid the elements out in another way."""

    name: str
    source: torch.Tensor
    target: torch.Tensor
    moves: bool


class Census(TorchDispatchMode):  # type: ignore[misc]
    """Counts ATen ops by name.

    Args:
        keep: hold on to what was allocated, so that no two tensors share an address, and note what was filled.
        note: called after each op with its name, arguments and result.

    Attributes:
        copies: in order; their tensors are held, so that no two share an address.
    """

    def __init__(self, *, keep: bool = False, note: Callable[[str, Any, Any, Any], None] | None = None) -> None:
        super().__init__()
        self.keep, self.note = keep, note
        self.ops: dict[str, int] = {}
        self.fills: list[tuple[torch.Tensor, float]] = []
        self.copies: list[Copied] = []
        self._computing: dict[str, int] = {}
        self._allocated: list[torch.Tensor] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        name = str(op)
        self.ops[name] = self.ops.get(name, 0) + 1
        if self.note is not None:
            self.note(name, args, kwargs or {}, result)
        short = name.split(".")[1]
        if not self._copied(name, short, args, result) and not _harmless(name, short):
            self._computing[name] = self._computing.get(name, 0) + 1
        if self.keep and isinstance(result, torch.Tensor) and (short in ALLOCATIONS or short in FILLS):
            self._allocated.append(result)
            if short in FILLS:
                value = FILLS[short]
                number = args[1] if value is None and len(args) > 1 else value
                self.fills.append((result, float(number) if isinstance(number, (int, float)) else 0.0))
        return result

    def _copied(self, name: str, short: str, args: Any, result: Any) -> bool:
        """Notes a copy; false for an op that is none, or that computes while it copies."""
        if short not in COPIES:
            return False
        target, source = args[:2] if short == "copy_" else (result, args[0])
        if not _plain(source) or not _plain(target):
            return False
        if target.dtype is not source.dtype or (short != "copy_" and target.device != source.device):
            return False
        whole = target.untyped_storage().nbytes() == target.numel() * target.element_size()
        moves = target.shape != source.shape or _steps(target) != _steps(source)
        itself = not moves and key(target) == key(source) and target.storage_offset() == source.storage_offset()
        self.copies.append(Copied(name, source, target, moves or not (whole or itself)))
        return True

    def forbidden(self, given: Iterable[Any], results: Iterable[Any]) -> list[str]:
        """What is no view, no allocation, no fill and no copy that may be, in words: `ATen op x count`.

        Args:
            given, results: the leaves of what the call was given and gave.
        """
        found = [f"{name} x{count}" for name, count in self._computing.items()]
        final = {key(leaf) for leaf in (*given, *results) if _plain(leaf)}
        moved: set[int] = set()
        for copy in self.copies:
            if copy.moves or key(copy.source) in moved:
                moved.add(key(copy.target))
                if key(copy.target) in final:
                    found.append(f"{copy.name} to lay out what it returns, which is for a kernel to do")
        return found


ALLOCATIONS = frozenset(
    ("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted", "resize_")
)
FILLS: dict[str, float | None] = {
    "zeros": 0.0,
    "zeros_like": 0.0,
    "new_zeros": 0.0,
    "zero_": 0.0,
    "ones": 1.0,
    "ones_like": 1.0,
    "new_ones": 1.0,
    "full": None,
    "full_like": None,
    "new_full": None,
    "fill_": None,
}
#: `contiguous`, `reshape` and `to(memory_format=...)` arrive as one of these.
COPIES = frozenset(("copy_", "clone", "_to_copy"))
# Views that PyTorch does not declare as such: what `reshape` makes of its copy.
HIDDEN_VIEWS = frozenset(("_unsafe_view",))
_QUIET = frozenset(("detach", "alias", "lift_fresh", "_local_scalar_dense", "sym_size", "sym_stride")) | HIDDEN_VIEWS


def _harmless(name: str, short: str) -> bool:
    return short in ALLOCATIONS or short in FILLS or short in _QUIET or is_view(name)


def key(tensor: torch.Tensor) -> int:
    """Identifies a tensor's memory as long as it is held."""
    return int(tensor.untyped_storage()._cdata)


def _plain(value: Any) -> bool:
    """Whether it is a tensor with memory and strides of its own; `isinstance` believes an object that says it is."""
    return type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided


def _steps(tensor: torch.Tensor) -> list[int]:
    """Strides of the dims that have more than one element."""
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def is_view(name: str) -> bool:
    """Whether an op, as the census names it, gives another view of a tensor and writes nothing."""
    namespace, op, overload = name.split(".")[:3]
    packet = getattr(getattr(torch.ops, namespace), op)
    schema = getattr(packet, overload)._schema
    written = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
    aliased = any(r.alias_info is not None for r in schema.returns)
    return aliased and not written


def moved_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's distinct elements: one that is repeated by a zero stride is read once."""
    count = int(tensor.element_size())
    for size, step in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if step or not size else 1
    return count


__all__ = ["ALLOCATIONS", "COPIES", "FILLS", "HIDDEN_VIEWS", "Census", "Copied", "is_view", "key", "moved_bytes"]
