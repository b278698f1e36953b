"""The census of ATen ops: what a candidate's `forward` asks of PyTorch beside launching its kernels.

In: one call of `forward`, on meta tensors or on real ones. Out: op counts, and those that are no view, no allocation
and no fill. Left to others: whether such an op is allowed (the host, by the problem's policy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Census(TorchDispatchMode):  # type: ignore[misc]
    """Counts ATen ops by name.

    Args:
        keep: hold on to what was allocated, so that no two tensors share an address, and note what was filled.
        note: called after each op with its name, arguments and result.
    """

    def __init__(self, *, keep: bool = False, note: Callable[[str, Any, Any, Any], None] | None = None) -> None:
        super().__init__()
        self.keep, self.note = keep, note
        self.ops: dict[str, int] = {}
        self.fills: list[tuple[torch.Tensor, float]] = []
        self._allocated: list[torch.Tensor] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        name = str(op)
        self.ops[name] = self.ops.get(name, 0) + 1
        if self.note is not None:
            self.note(name, args, kwargs or {}, result)
        short = name.split(".")[1]
        if self.keep and isinstance(result, torch.Tensor) and (short in ALLOCATIONS or short in FILLS):
            self._allocated.append(result)
            if short in FILLS:
                value = FILLS[short]
                number = args[1] if value is None and len(args) > 1 else value
                self.fills.append((result, float(number) if isinstance(number, (int, float)) else 0.0))
        return result

    @property
    def forbidden(self) -> list[str]:
        """See `forbidden_ops`."""
        return forbidden_ops(self.ops)


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


def forbidden_ops(ops: Mapping[str, int]) -> list[str]:
    """The ops of a census that are no view, no allocation, no fill: `ATen op x count`."""
    found = []
    for name, count in ops.items():
        short = name.split(".")[1]
        if short in ALLOCATIONS or short in FILLS or short in _QUIET or is_view(name):
            continue
        found.append(f"{name} x{count}")
    return found


_QUIET = frozenset(("copy_", "detach", "alias", "lift_fresh", "_local_scalar_dense", "sym_size", "sym_stride"))


def is_view(name: str) -> bool:
    """Whether an op, as the census names it, gives another view of a tensor and writes nothing."""
    namespace, op, overload = name.split(".")[:3]
    packet = getattr(getattr(torch.ops, namespace), op)
    schema = getattr(packet, overload)._schema
    written = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
    aliased = any(r.alias_info is not None for r in schema.returns)
    return aliased and not written
