"""The fp64 oracle: the reference run with every floating operation in double precision, at ATen level.

In: the reference's model and the drawn (rounded) inputs. Out: O, the exact result as far as acceptance is concerned; S,
the same sums on absolute values where that is defined; the longest reduction; which integer outputs are positions of
other values. Left to others: the acceptance rule (`accept`), drawing (`tensors.draw`).

`Model.double()` would be defeated by casts inside the model (`x.float()`, `.to(torch.bfloat16)`), so a dispatch mode
upcasts what flows into each op and turns each floating dtype argument into float64. An op that refuses float64 runs in
its own precision and is named in `lowered`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DOUBLE = torch.float64
_POSITIONS = {  # op -> (which output holds positions, keeps the dim it picks along)
    "aten::argmax": "reduce",
    "aten::argmin": "reduce",
    "aten::max": "pair",
    "aten::min": "pair",
    "aten::topk": "select",
    "aten::sort": "select",
    "aten::argsort": "select",
    "aten::cummax": "pair",
    "aten::cummin": "pair",
}
_REDUCE_ALL = (
    "sum",
    "mean",
    "prod",
    "var",
    "std",
    "amax",
    "amin",
    "linalg_vector_norm",
    "norm",
    "logsumexp",
    "var_mean",
)
_ALONG = ("_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp")
_NORMS = ("native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm")


@dataclass
class Pick:
    """An integer tensor that holds positions along `dim` of `source` (already in fp64)."""

    index: Any
    source: Any
    dim: int | None
    unique: bool


@dataclass
class Trace:
    """What the oracle saw on its way: op names, the longest reduction, positions, ops that refused float64."""

    ops: set[str] = field(default_factory=set)
    reduction: int = 1
    picks: list[Pick] = field(default_factory=list)
    lowered: set[str] = field(default_factory=set)


class Upcast(TorchDispatchMode):  # type: ignore[misc]
    """Runs every op in float64 and notes in `trace` what acceptance needs to know."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        bits = name == "aten::view" and func._overloadname == "dtype"  # reads bits, not numbers: stays as it is
        if bits:
            return func(*args, **kwargs)
        written = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
        up_args = [
            value if spec.name in written else pytree.tree_map(_up, value)
            for spec, value in zip(func._schema.arguments, args, strict=False)
        ]
        up_kwargs = {k: v if k in written else pytree.tree_map(_up, v) for k, v in kwargs.items()}
        try:
            out = func(*up_args, **up_kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.trace.lowered.add(name)
            out = func(*args, **kwargs)
        if not func.is_view and not written:
            out = pytree.tree_map(_up_tensor, out)
        self._note(name.removeprefix("aten::"), name, up_args, up_kwargs, out)
        return out

    def _note(self, short: str, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        self.trace.ops.add(short)
        length = _reduction(short, args, kwargs, out)
        self.trace.reduction = max(self.trace.reduction, length)
        if name in _POSITIONS:
            self._note_pick(_POSITIONS[name], short, args, kwargs, out)

    def _note_pick(self, kind: str, short: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        pair = isinstance(out, (tuple, list)) and len(out) > 1
        if kind != "reduce" and short != "argsort" and not pair:
            return  # the overload without positions
        index = out[1] if pair else out
        if not isinstance(index, torch.Tensor) or index.dtype is not torch.int64:
            return
        where = 2 if short == "topk" else 1
        dim = kwargs.get("dim", args[where] if len(args) > where else None if short in ("argmax", "argmin") else -1)
        if isinstance(dim, bool) or not (dim is None or isinstance(dim, int)):
            return
        self.trace.picks.append(Pick(index, args[0], dim, kind == "select"))


def _up(value: Any) -> Any:
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return DOUBLE
    return _up_tensor(value)


def _up_tensor(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not DOUBLE:
        return value.to(DOUBLE)
    return value


def _reduction(short: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """How many terms the op adds up for one element of its result; 1 where it does not."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if short in ("mm", "bmm", "mv", "dot") and tensors:
        return int(tensors[0].shape[-1])
    if short in ("addmm", "baddbmm", "addmv", "addbmm") and len(tensors) > 1:
        return int(tensors[1].shape[-1])
    if "convolution" in short and len(tensors) > 1:
        return int(tensors[1].numel() // max(1, tensors[1].shape[0]))
    first = out[0] if isinstance(out, (tuple, list)) and out else out
    if not tensors or not isinstance(first, torch.Tensor) or not first.numel():
        return 1
    if short in _REDUCE_ALL:
        return max(1, int(tensors[0].numel() // first.numel()))
    if short in _ALONG and tensors[0].dim():
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return int(tensors[0].shape[dim])
    if short.startswith(_NORMS) and len(out) > 1 and isinstance(out[1], torch.Tensor) and out[1].numel():
        return max(1, int(tensors[0].numel() // out[1].numel()))
    if "scaled_dot_product" in short:
        return int(max(tensors[0].shape[-1], tensors[1].shape[-2]))
    return 1


# Ops whose result on absolute values bounds the sum of the absolute terms: sums of products, and what only moves,
# selects or clips from below. Any other op makes the estimate undefined.
_POOLED = ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
_SUMS = {
    *("mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "convolution", "add", "sub", "rsub", "mul", "neg", "relu"),
    *("sum", "mean", "cumsum", "cat", "stack", "clone", "_to_copy", "detach", "alias", "lift_fresh", "copy", "copy_"),
    *("permute", "transpose", "t", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "squeeze", "slice"),
    *("unsqueeze", "select", "as_strided", "split", "split_with_sizes", "unbind", "diagonal", "unfold", "flip", "roll"),
    *("constant_pad_nd", "triu", "tril", "index_select", "gather", "index", "embedding", "repeat", "diag_embed"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d"),
    *(
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "adaptive_max_pool2d",
        "zeros",
        "ones",
        "empty",
        "fill_",
        "zero_",
    ),
    *("zeros_like", "ones_like", "empty_like", "new_zeros", "full", "arange", "mkldnn_convolution", "pixel_shuffle"),
}


def absolute_defined(trace: Trace) -> bool:
    """Whether S, the reference on absolute values, is defined for what the oracle saw."""
    return trace.ops <= _SUMS


def only_sums(trace: Trace) -> bool:
    """Whether every op of the trace gives whole numbers from whole numbers, by adding, multiplying and moving them."""
    return trace.ops <= _SUMS - {"mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", *_POOLED}


class Absolute(TorchDispatchMode):  # type: ignore[misc]
    """Runs sums of products on absolute values: differences become sums, constants lose their sign."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        short = func._schema.name.removeprefix("aten::")
        if short in ("sub", "rsub"):
            scale = abs(kwargs.get("alpha", 1))
            left, right = (abs(a) if not isinstance(a, torch.Tensor) else a.abs() for a in args[:2])
            return left * scale + right if short == "rsub" else left + right * scale
        out = func(*args, **kwargs)
        if func.is_view or any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments):
            return out
        return pytree.tree_map(lambda t: t.abs() if isinstance(t, torch.Tensor) and t.is_floating_point() else t, out)


def double_model(model: Any, build: Callable[[], Any]) -> Any:
    """A second `model` with parameters, buffers and plain tensor attributes in float64.

    Args:
        build: gives another, equal model; used where a copy would share weights with the first through a closure
            (`self.act = lambda x: self.layer(x)`).
    """
    closures = (isinstance(v, FunctionType) and v.__closure__ for m in model.modules() for v in vars(m).values())
    made = (build() if any(closures) else copy.deepcopy(model)).double()
    for module in made.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(module, name, value.to(DOUBLE))
    return made


def double_inputs(arguments: Sequence[Any]) -> list[Any]:
    """Copies of forward's arguments with floating tensors in float64; which ones require gradients is kept."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        copied = leaf.detach().to(DOUBLE, copy=True) if leaf.is_floating_point() else leaf.clone()
        return copied.requires_grad_(leaf.requires_grad)

    return list(pytree.tree_map(one, list(arguments)))


def find_pick(trace: Trace, leaf: Any) -> Pick | None:
    """The positions that an integer output holds, where the oracle saw them made."""
    for pick in reversed(trace.picks):
        same = pick.index.untyped_storage().data_ptr() == leaf.untyped_storage().data_ptr()
        if same and pick.index.numel() == leaf.numel():
            return pick
    return None


def gather_values(pick: Pick, index: Any) -> Any:
    """The source's values at `index`, which has as many elements as the pick's own; NaN where it points outside."""
    flat = pick.index
    chosen = index.reshape(flat.shape)
    if pick.dim is None:
        source, dim, chosen = pick.source.reshape(-1), 0, chosen.reshape(-1)
    else:
        source, dim = pick.source, pick.dim % max(1, pick.source.dim())
        if chosen.dim() < source.dim():
            chosen = chosen.unsqueeze(dim)
    length = source.shape[dim] if source.dim() else 1
    outside = (chosen < 0) | (chosen >= length)
    values = torch.gather(source, dim, chosen.clamp(0, length - 1)).to(DOUBLE)
    return values.masked_fill(outside, math.nan).reshape(-1)
