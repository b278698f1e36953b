"""Null models: answers that a kernel could give without doing the work, made from what the judge knows.

In: a Reference with a case that was computed. Out: `Made` answers by output path, one null model after the other, the
cheap ones first. Left to others: putting them before the acceptance rule and what follows from it (`admission`).

Each is the strongest of its family that costs nothing to write: constants and rank-1 factors are fitted to the oracle,
half of the data is scaled by the factor that fits best. So what fails here fails by a margin that no tuning closes. For
few elements a fit would know the answer: there it is made on other seeds. Zeros, constants, copies and old outputs
count even where they are exactly right: such a problem needs no kernel. The others do not: where the last rows are
padding, leaving them out is correct.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kernelevolve.judge.leaf import FEW, Leaf
from kernelevolve.judge.oracle import double_inputs
from kernelevolve.judge.reference import Reference
from kernelevolve.protocol import Case
from kernelevolve.tensors import draw

Values = Mapping[str, Any]

TILE = 16  # elements along a dim: the smallest tile that kernels use, so the hardest one to miss
MATRIX = 8  # rows and columns from which a rank-1 fit is much less than the matrix itself
STEPS = 12  # of the power iteration
EXACT = 1e-12  # of the output's rms, in fp64: what is closer to the oracle is right, not lucky
# Bits of the significand, the implicit one included, of the formats below each declared precision.
_BITS = {"tf32": 11, "bf16": 8, "fp8 e4m3": 4, "fp8 e5m2": 3}
GRADES: Mapping[str, tuple[str, ...]] = {
    "fp32-strict": ("tf32", "bf16"),
    "tf32": ("bf16", "fp8 e4m3"),
    "fp16": ("bf16", "fp8 e4m3"),
    "bf16": ("fp8 e4m3", "fp8 e5m2"),
    "fp8-operands": ("fp8 e5m2",),
    "fp8-quantise": ("fp8 e5m2",),
}


@dataclass(frozen=True)
class Made:
    """One null model's answer.

    Attributes:
        values: by output path; outputs that are absent are given as the honest reference has them.
        whole: whether it says something about every floating output; else passing tells about these outputs only.
    """

    name: str
    values: Values
    kind: Literal["null", "precision", "control"] = "null"
    whole: bool = True


def judged(leaves: Sequence[Leaf]) -> list[Leaf]:
    """The outputs that null models answer: not the state that the reference changes on its way."""
    return [leaf for leaf in leaves if not leaf.path.startswith("state:")]


def shortcuts(reference: Reference, case: Case) -> Iterator[Made]:
    """What needs no further run: constants, fits, noise, an input in place of the output, a part left out."""
    leaves = judged(reference.leaves(case))
    yield Made("zeros", {leaf.path: torch.zeros_like(leaf.oracle, dtype=leaf.dtype) for leaf in leaves})
    yield Made("constant mean", {leaf.path: _constant(leaf) for leaf in leaves})
    rows = {leaf.path: found for leaf in leaves if (found := _row_means(leaf)) is not None}
    if rows:
        yield Made("mean of each row", rows, whole=len(rows) == len(leaves))
    fits = {leaf.path: found for leaf in leaves if (found := _rank_one(leaf)) is not None}
    if fits:
        yield Made("rank-1 fit", fits, whole=len(fits) == len(leaves))
    source = draw.generator(case.seed, "null/random", reference.opened.device)
    yield Made("random of the same mean and deviation", {leaf.path: _random(leaf, source) for leaf in leaves})
    yield from _copies(reference, case, leaves)
    for leaf in leaves:
        yield from _skipped_tiles(leaf)


def reruns(reference: Reference, case: Case, honest: Values) -> Iterator[Made]:
    """What runs the reference again: on other inputs, in lower precision, on half of the data.

    Args:
        honest: what the reference itself gives for the case.
    """
    leaves = judged(reference.leaves(case))
    other = Case(draw.stream_seed(case.seed, "null/other"), case.distribution, case.redraw_state)
    found = dict(reference.rerun(other, double=True))
    yield Made("output for another seed", {e.path: _cast(found[e.path], e) for e in leaves})
    for grade in GRADES[reference.opened.precision]:
        lower = dict(reference.rerun(case, mode=Lowered(_BITS[grade])))
        if any(not torch.equal(_bits(lower[e.path]), _bits(honest[e.path])) for e in leaves):
            yield Made(grade, {leaf.path: lower[leaf.path] for leaf in leaves}, kind="precision")
    yield from _halves(reference, case, other, found)


class Lowered(TorchDispatchMode):  # type: ignore[misc]
    """Rounds the floating operands of every op to fewer significant bits; sums stay as wide as they are.

    The exponent keeps its range, as in a kernel that scales before it rounds.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func.is_view:
            return func(*args, **kwargs)
        written = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
        rounded = [
            value if spec.name in written else pytree.tree_map(self._round, value)
            for spec, value in zip(func._schema.arguments, args, strict=False)
        ]
        named = {k: v if k in written else pytree.tree_map(self._round, v) for k, v in kwargs.items()}
        return func(*rounded, **named)

    def _round(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout is torch.strided:
            return round_significand(value, self.bits)
        return value


def round_significand(tensor: Any, bits: int) -> Any:
    """`tensor` rounded to `bits` significant bits (the implicit one included), halves away from zero; same dtype."""
    wide = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    kept, integer = (53, torch.int64) if wide.dtype is torch.float64 else (24, torch.int32)
    if bits >= kept:
        return tensor
    drop = kept - bits
    pattern = wide.contiguous().view(integer)
    moved = ((pattern + (1 << (drop - 1))) & -(1 << drop)).view(wide.dtype)
    # Rounding up the largest numbers carries into the exponent of infinity: they stay.
    return torch.where(wide.isfinite() & moved.isfinite(), moved, wide.contiguous()).to(tensor.dtype)


def is_exact(leaf: Leaf, values: Any) -> bool:
    """Whether values in fp64, or integers, are the oracle's own up to the last bits of a double."""
    if not leaf.floating:
        return bool(torch.equal(values.to(leaf.oracle.dtype), leaf.oracle))
    same = leaf.oracle.isfinite() & values.isfinite()
    if not torch.equal(_bits(torch.where(same, 0.0, values.double())), _bits(torch.where(same, 0.0, leaf.oracle))):
        return False
    apart = torch.where(same, values.double() - leaf.oracle, 0.0)
    return bool(not apart.numel() or apart.abs().max().item() <= EXACT * leaf.rms)


def _bits(tensor: Any) -> Any:
    """The tensor with every NaN replaced by one number, so that equal ones compare equal."""
    return torch.nan_to_num(tensor, nan=12345.0) if tensor.is_floating_point() else tensor


def _cast(values: Any, leaf: Leaf) -> Any:
    return values.reshape(leaf.oracle.shape).to(leaf.dtype)


def _finite(leaf: Leaf) -> Any:
    """The oracle with what is not finite as zero, in fp64."""
    return torch.nan_to_num(leaf.oracle.double(), nan=0.0, posinf=0.0, neginf=0.0)


def _pattern(leaf: Leaf, values: Any) -> Any:
    """`values` with NaN and infinities where the oracle has them: whoever knows the mask still has no numbers."""
    if not leaf.floating:
        return values.round().to(leaf.dtype)
    return torch.where(leaf.oracle.isfinite(), values, leaf.oracle)


def _constant(leaf: Leaf) -> Any:
    """The mean over the output; where that is few elements, over the outputs for all seeds so far."""
    exact = _finite(leaf)
    mean = exact.sum() / max(1, int(leaf.oracle.isfinite().sum().item()))
    if leaf.floating and leaf.few:
        mean = torch.full_like(mean, leaf.pool.total / max(1, leaf.pool.count))
    return _cast(_pattern(leaf, mean.expand(leaf.oracle.shape)), leaf)


def _row_means(leaf: Leaf) -> Any | None:
    """The mean along the last dim; None where a row is one element, or rows are constant by construction."""
    if not leaf.floating or leaf.oracle.dim() < 2 or leaf.oracle.shape[-1] < 2 or not leaf.oracle.numel():
        return None
    exact = _finite(leaf)
    count = leaf.oracle.isfinite().sum(-1, keepdim=True).clamp_(min=1)
    means = _pattern(leaf, (exact.sum(-1, keepdim=True) / count).expand(exact.shape))
    return None if is_exact(leaf, means) else _cast(means, leaf)


def _rank_one(leaf: Leaf) -> Any | None:
    """The best of one column times one row for the output as a matrix, by power iteration in fp64.

    The view is the one with the most square shape. None where it has few rows or columns, or where the output is such
    a product by construction.
    """
    if not leaf.floating or leaf.oracle.dim() < 2 or leaf.oracle.numel() < FEW:
        return None
    shape = leaf.oracle.shape
    splits = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
    rows, columns = max(splits, key=min)
    if min(rows, columns) < MATRIX:
        return None
    matrix = _finite(leaf).reshape(rows, columns)
    right = matrix.abs().sum(0) + 1e-300  # never orthogonal to what dominates unless signs cancel exactly
    for _ in range(STEPS):
        left = matrix @ right
        right = left @ matrix
        right = right / right.norm().clamp_(min=1e-300)
    fit = _pattern(leaf, ((matrix @ right).unsqueeze(1) * right).reshape(shape))
    return None if is_exact(leaf, fit) else _cast(fit, leaf)


def _random(leaf: Leaf, source: Any) -> Any:
    exact = _finite(leaf)
    mean, deviation = (exact.mean(), exact.std(correction=0)) if exact.numel() else (0.0, 1.0)
    if leaf.floating and leaf.few:
        mean, deviation = leaf.pool.total / max(1, leaf.pool.count), leaf.pool.centred_rms
    drawn = torch.randn(leaf.oracle.shape, generator=source, device=leaf.oracle.device, dtype=torch.float64)
    return _cast(_pattern(leaf, drawn * deviation + mean), leaf)


def _copies(reference: Reference, case: Case, leaves: Sequence[Leaf]) -> Iterator[Made]:
    for name, given in reference.inputs(case):
        if not isinstance(given, torch.Tensor) or not given.is_floating_point():
            continue
        fits = {
            leaf.path: given.detach().to(leaf.dtype)
            for leaf in leaves
            if leaf.oracle.shape == given.shape and leaf.path != f"input:{name}"
        }
        if fits:
            yield Made(f"input copy {name}", fits, whole=len(fits) == len(leaves))


def _skipped_tiles(leaf: Leaf) -> Iterator[Made]:
    """The last tile along each dim left as zeros; where the exact values there are zeros, that is right."""
    base = _cast(leaf.oracle, leaf)
    for dim, size in enumerate(leaf.oracle.shape):
        if size < 2 or not leaf.oracle.numel():
            continue
        tile = min(TILE, size // 2)
        values = base.clone()
        last = values.narrow(dim, size - tile, tile)
        if last.any().item():
            last.zero_()
            yield Made(f"last {tile} of dim {dim} of {leaf.path} left out", {leaf.path: values}, whole=False)


def _halves(reference: Reference, case: Case, other: Case, others: Values) -> Iterator[Made]:
    """The second half of one input along one dim as zeros, and as a copy of the first half; then scaled to fit.

    Args:
        others: the oracle's outputs for the case `other`.
    """
    leaves = judged(reference.leaves(case))
    few = any(leaf.few and leaf.floating for leaf in leaves)
    for i, (name, whole) in enumerate(reference.inputs(case)):
        if not isinstance(whole, torch.Tensor) or not whole.is_floating_point() or not whole.numel():
            continue
        for dim, size in enumerate(whole.shape):
            for how, change in _CHANGES.items() if size > 1 else ():
                halved = functools.partial(change, dim=dim, size=size)
                found = _on_half(reference, case, i, halved)
                if all(is_exact(leaf, found[leaf.path]) for leaf in leaves):
                    continue
                known = _on_half(reference, other, i, halved) if few else {}
                values = {}
                for leaf in leaves:
                    fit = (known[leaf.path], others[leaf.path]) if leaf.few and few else (found[leaf.path], leaf.oracle)
                    values[leaf.path] = _scaled(leaf, found[leaf.path], *fit)
                yield Made(f"first half of {name} along dim {dim}, {how}", values)


def _on_half(reference: Reference, case: Case, place: int, change: Callable[[Any], Any]) -> Values:
    """What the oracle gives when the input at this place among the flattened arguments is changed."""
    flat, tree = pytree.tree_flatten(reference.arguments(case))
    half = change(flat[place].detach().clone(memory_format=torch.contiguous_format))
    flat[place] = half.requires_grad_(flat[place].requires_grad)
    return dict(reference.rerun(case, double_inputs(pytree.tree_unflatten(flat, tree)), double=True))


def _zeroed(half: Any, dim: int, size: int) -> Any:
    half.narrow(dim, size - size // 2, size // 2).zero_()
    return half


def _repeated(half: Any, dim: int, size: int) -> Any:
    half.narrow(dim, size - size // 2, size // 2).copy_(half.narrow(dim, 0, size // 2).clone())
    return half


_CHANGES: Mapping[str, Callable[..., Any]] = {"scaled": _zeroed, "twice": _repeated}


def _scaled(leaf: Leaf, values: Any, known: Any, wanted: Any) -> Any:
    """`values` times the factor that brings `known` closest to `wanted`."""
    if not leaf.floating:
        return _cast(values, leaf)
    goal = torch.nan_to_num(wanted.double(), nan=0.0, posinf=0.0, neginf=0.0)
    base = torch.nan_to_num(known.double(), nan=0.0, posinf=0.0, neginf=0.0)
    square = base.square().sum().item()
    factor = (base * goal).sum().item() / square if square > 0 else 1.0
    return _cast(torch.where(values.isfinite(), values * factor, values), leaf)
