"""Honest controls: other ways to compute what the reference computes, which the acceptance rule has to let pass.

In: a Reference with a case that was computed. Out: answers by output path. Left to others: judging them (`admission`).
A control that fails says that the rule or the problem is wrong, never a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernelevolve.judge.leaf import Leaf
from kernelevolve.judge.nulls import Made, judged
from kernelevolve.judge.reference import Reference
from kernelevolve.protocol import Case
from kernelevolve.tensors import draw

BLOCK = 32  # terms of a product that are added up at once, as in a kernel's loop over tiles
BLOCKS = 64  # most of them
AGAIN = "the reference again"


def controls(reference: Reference, case: Case) -> Iterator[Made]:
    """The reference again, in another order of summation, and the exact result one unit in the last place off."""
    leaves = judged(reference.leaves(case))
    paths = [leaf.path for leaf in leaves]
    again = dict(reference.rerun(case))
    yield Made(AGAIN, {p: again[p] for p in paths}, kind="control")
    mode = Reordered()
    other = dict(reference.rerun(case, mode=mode))
    if mode.changed:
        yield Made("another order of summation", {p: other[p] for p in paths}, kind="control")
    source = draw.generator(case.seed, "control/ulp", reference.opened.device)
    wide = (leaf for leaf in leaves if leaf.dtype in (torch.float32, torch.float64) and not leaf.exact)
    off = {leaf.path: _one_off(leaf, source) for leaf in wide}
    if off:
        yield Made("one unit in the last place off", off, kind="control")


def _one_off(leaf: Leaf, source: Any) -> Any:
    exact = leaf.oracle.to(leaf.dtype)
    up = torch.rand(exact.shape, generator=source, device=exact.device) < 0.5
    towards = torch.where(up, torch.inf, -torch.inf).to(leaf.dtype)
    moved = torch.nextafter(exact, towards)
    # A zero or a denormal number has no relative last place, and what comes next to it no honest sum leaves.
    return torch.where(
        exact.isfinite() & moved.isfinite() & (exact.abs() > torch.finfo(leaf.dtype).smallest_normal), moved, exact
    )


class Reordered(TorchDispatchMode):  # type: ignore[misc]
    """Adds up in another order: products in blocks with their terms permuted, sums from the back.

    Attributes:
        changed: names of the ops whose order was another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        short = func._schema.name.removeprefix("aten::")
        if short in _ORDERS and "out" not in kwargs and _floats(args):
            found = _ORDERS[short](func, args, kwargs)
            if found is not None:
                self.changed.add(short)
                return found
        return func(*args, **kwargs)


def _floats(args: Any) -> bool:
    return all(a.is_floating_point() for a in args if isinstance(a, torch.Tensor))


def _product(left: Any, right: Any) -> Any:
    """`left @ right` with its terms permuted and added up block by block in fp32, or wider as the operands are."""
    wide = torch.promote_types(left.dtype, torch.float32)
    terms = left.shape[-1]
    order = torch.randperm(terms, generator=torch.Generator().manual_seed(terms)).to(left.device)
    left, right = left.index_select(-1, order).to(wide), right.index_select(-2, order).to(wide)
    block = max(BLOCK, -(-terms // BLOCKS))
    total = torch.zeros((*left.shape[:-1], right.shape[-1]), dtype=wide, device=left.device)
    for start in range(0, terms, block):
        total += left[..., start : start + block] @ right[..., start : start + block, :]
    return total


def _mm(func: Any, args: Any, kwargs: Any) -> Any:
    return _product(args[0], args[1]).to(args[0].dtype)


def _addmm(func: Any, args: Any, kwargs: Any) -> Any:
    product = _product(args[1], args[2]) * kwargs.get("alpha", 1)
    return (product + args[0] * kwargs.get("beta", 1)).to(args[1].dtype)


def _convolution(func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, *rest = args
    transposed, groups = bool(rest[4]), int(rest[6])
    channels = x.shape[1] if x.dim() > 2 else 0
    if groups != 1 or channels < 2:
        return None
    order = torch.arange(channels - 1, -1, -1, device=x.device)
    return func(x.index_select(1, order), weight.index_select(0 if transposed else 1, order), *rest, **kwargs)


def _dims(args: Any, kwargs: Any) -> list[int]:
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if isinstance(dims, bool) or dims is None or dims == []:
        return list(range(args[0].dim()))
    return [dims] if isinstance(dims, int) else list(dims)


def _reduced(func: Any, args: Any, kwargs: Any) -> Any:
    if not args[0].numel() or not args[0].dim():
        return None
    return func(args[0].flip(_dims(args, kwargs)).contiguous(), *args[1:], **kwargs)


def _normed(func: Any, args: Any, kwargs: Any) -> Any:
    """A norm, whose second argument is its order: it has its dims one place later."""
    if not args[0].numel() or not args[0].dim():
        return None
    dims = _dims((args[0], *args[2:]), kwargs)
    return func(args[0].flip(dims).contiguous(), *args[1:], **kwargs)


def _along(func: Any, args: Any, kwargs: Any) -> Any:
    if not args[0].dim():
        return None
    return func(args[0].flip(args[1]).contiguous(), *args[1:], **kwargs).flip(args[1])


def _layer_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, shape, weight, bias, eps = args
    dims = list(range(-len(shape), 0))
    turned = [None if t is None else t.flip(dims).contiguous() for t in (weight, bias)]
    out, *statistics = func(x.flip(dims).contiguous(), shape, *turned, eps, **kwargs)
    return (out.flip(dims), *statistics)


def _over_space(func: Any, args: Any, kwargs: Any) -> Any:
    """Norms whose statistics run over the dims behind the channels."""
    dims = list(range(2, args[0].dim()))
    if not dims:
        return None
    out, *statistics = func(args[0].flip(dims).contiguous(), *args[1:], **kwargs)
    return (out.flip(dims), *statistics)


Order = Callable[[Any, Any, Any], Any]
_ORDERS: dict[str, Order] = {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "convolution": _convolution,
    "sum": _reduced,
    "mean": _reduced,
    "logsumexp": _reduced,
    "var": _reduced,
    "std": _reduced,
    "var_mean": _reduced,
    "linalg_vector_norm": _normed,
    "_softmax": _along,
    "_log_softmax": _along,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _over_space,
    "native_batch_norm": _over_space,
    "_native_batch_norm_legit": _over_space,
    "_native_batch_norm_legit_no_training": _over_space,
}
