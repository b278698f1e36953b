"""What the judge knows of one output leaf of one case, and the rms limit that follows from it (see `accept`).

In: O and R of one leaf. Out: a `Leaf` with their statistics over every element, and whether the case says anything.
Left to others: comparing a candidate (`accept`). R is not kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from kernelevolve.judge.oracle import Pick
from kernelevolve.tensors.outputs import dtype_name

CHUNK = 1 << 24
FEW = 64
POOL = 32
# Largest rms error relative to the centred oracle that honest kernels of a precision stay under, with a margin.
FLOORS = {"fp32-strict": 5e-6, "tf32": 1e-3, "fp16": 1e-3, "bf16": 4e-3, "fp8-operands": 0.0, "fp8-quantise": 8e-2}
# The same for the rounding of the output alone: an output in bf16 cannot be closer than bf16.
DTYPE_FLOORS = {"float64": 1e-12, "float32": 5e-6, "float16": 1e-3, "bfloat16": 4e-3}
FP8_FLOOR = 8e-2
# A rounding in fp32 errs by 0.4 * 2^-24 rms; partial sums of terms of one sign have rms 1/sqrt(3) of the sum.
ORDER, ORDER_TERMS = 0.5, 16384
WORST = 1.5  # of one element: 6 times that root mean square, which 10^9 of them reach
# Units in the last place of float32 by which an honest kernel may miss every element: where the output varies by much
# less than its size (a sigmoid around 0.5), no floor relative to the variation leaves room for that.
ULPS = 2.0
# Tensor cores cut off the low 13 bits of the operands of a tf32 product and do not round them: each of the two loses
# 2^-11 ln 2 of itself on average, so every sum of products is 0.7 * 2^-10 too small, whatever its order. Where all
# terms have one sign, that is far more than the floor allows relative to the variation.
CUT_OFF = 2.0**-10


@dataclass
class Pool:
    """Sums over several cases of one small output: squares of the reference's error and of O."""

    cases: int = 0
    count: int = 0
    reference: float = 0.0
    oracle: float = 0.0
    total: float = 0.0
    largest: float = 0.0

    @property
    def reference_rms(self) -> float:
        return math.sqrt(self.reference / max(1, self.count))

    @property
    def oracle_rms(self) -> float:
        return math.sqrt(self.oracle / max(1, self.count))

    @property
    def centred_rms(self) -> float:
        mean = self.total / max(1, self.count)
        return math.sqrt(max(0.0, self.oracle / max(1, self.count) - mean * mean))


@dataclass
class Leaf:
    """What the judge knows of one output leaf of one case; rms and largest are over finite elements."""

    path: str
    dtype: Any
    stride: tuple[int, ...]
    oracle: Any
    absolute: Any | None
    reduction: int
    pick: Pick | None = None
    finite: int = 0
    mean: float = 0.0
    rms: float = 0.0
    centred: float = 0.0
    reference_rms: float = 0.0
    reference_max: float = 0.0
    sensitivity: float = 0.0  # see `conditioning`; 0 where nothing was nudged
    loose: Any | None = None
    constant: bool = False
    unusable: str = ""
    exact: bool = False  # sums of products of small integers, which every order of summation gives exactly
    pool: Pool = field(default_factory=Pool)

    @property
    def floating(self) -> bool:
        return bool(self.dtype.is_floating_point)

    @property
    def few(self) -> bool:
        return bool(self.oracle.numel() < FEW)

    @property
    def nbytes(self) -> int:
        """Bytes that keeping it takes."""
        kept = [self.oracle, self.absolute, None if self.pick is None else self.pick.source]
        return sum(t.numel() * t.element_size() for t in kept if t is not None)

    @property
    def gradient(self) -> bool:
        return self.path.startswith("grad:")

    @property
    def base(self) -> float:
        """What errors are relative to: the centred oracle, or the oracle itself for few or constant elements."""
        if self.few:
            return self.pool.oracle_rms
        return self.rms if self.constant else self.centred


def floor_of(precision: str, dtype: Any) -> float:
    """The smallest rms limit relative to the centred oracle: the larger of the precision's and the output dtype's."""
    name = dtype_name(dtype)
    return max(FLOORS[precision], FP8_FLOOR if name.startswith("float8") else DTYPE_FLOORS[name])


def make_leaf(
    path: str,
    oracle: Any,
    reference: Any,
    precision: str,
    *,
    absolute: Any = None,
    reduction: int = 1,
    pick: Pick | None = None,
    pool: Pool | None = None,
) -> Leaf:
    """Compares R with O and keeps what `check_leaf` needs; R itself is not kept."""
    leaf = Leaf(path, reference.dtype, tuple(reference.stride()), oracle.detach(), absolute, reduction, pick)
    leaf.pool = pool or leaf.pool
    if not leaf.floating:
        flat = leaf.oracle.reshape(-1)
        leaf.constant = bool(flat.numel() > 1 and (flat == flat[0]).all().item())
        leaf.unusable = "all elements are equal" if leaf.constant else ""
        return leaf
    _measure(leaf, reference)
    limit = rms_limit(leaf, precision)
    if leaf.loose is not None:
        leaf.unusable = "the reference overflows where the exact result is finite"
    elif leaf.oracle.numel() and not leaf.finite:
        leaf.unusable = "the exact output is nowhere finite"
    elif not leaf.oracle.numel():
        leaf.unusable = "the output is empty"
    elif leaf.rms == 0.0 and (not leaf.few or leaf.pool.oracle == 0.0):
        leaf.unusable = "the exact output is identically zero"
    elif leaf.few:
        if leaf.oracle.numel() > 1 and leaf.centred <= 10 * limit:
            leaf.unusable = "the exact output is nearly constant: its mean alone would pass"
        elif leaf.pool.cases >= 8 and leaf.pool.centred_rms <= 10 * limit:
            leaf.unusable = "the exact output hardly depends on the inputs"
    elif leaf.centred <= 10 * max(limit, 1e-9 * leaf.rms):
        leaf.unusable = "the exact output is nearly constant: its mean alone would pass"
        leaf.constant = True
    return leaf


def _measure(leaf: Leaf, reference: Any) -> None:
    """Fills finite, mean, rms, centred, the reference's error and the elements where its overflow differs from O's."""
    o_flat, r_flat = leaf.oracle.reshape(-1), reference.detach().reshape(-1)
    total = square = error = 0.0
    largest, count, loose = 0.0, 0, []
    for start in range(0, o_flat.numel(), CHUNK):
        o, r = o_flat[start : start + CHUNK].double(), r_flat[start : start + CHUNK].double()
        pattern, own = pattern_of(o.to(leaf.dtype).double()), pattern_of(r)
        differs = pattern != own
        if differs.any().item():
            loose.append(differs.nonzero().reshape(-1) + start)
        keep = (pattern == 0) & ~differs
        count += int(keep.sum().item())
        exact = torch.where(keep, o, 0.0)
        delta = torch.where(keep, r - exact, 0.0)
        total += exact.sum().item()
        square += exact.square().sum().item()
        error += delta.square().sum().item()
        largest = max(largest, delta.abs().max().item())
    leaf.finite, leaf.loose = count, torch.cat(loose) if loose else None
    if count:
        leaf.mean, leaf.rms = total / count, math.sqrt(square / count)
        leaf.centred = _centred(leaf, o_flat)
        leaf.reference_rms, leaf.reference_max = math.sqrt(error / count), largest
    pool = leaf.pool
    pool.cases, pool.count = pool.cases + 1, pool.count + count
    pool.reference, pool.oracle, pool.total = pool.reference + error, pool.oracle + square, pool.total + total
    pool.largest = max(pool.largest, largest)


def _centred(leaf: Leaf, o_flat: Any) -> float:
    square = 0.0
    for start in range(0, o_flat.numel(), CHUNK):
        o = o_flat[start : start + CHUNK].double()
        keep = pattern_of(o.to(leaf.dtype).double()) == 0
        square += torch.where(keep, o - leaf.mean, 0.0).square().sum().item()
    return math.sqrt(square / max(1, leaf.finite))


# Integers up to here are exact in a sum of this dtype, whatever its order.
_EXACT = {"float64": 2.0**53, "float32": 2.0**24, "float16": 2.0**11, "bfloat16": 2.0**8}


def exactly(leaf: Leaf, precision: str) -> bool:
    """Whether O consists of sums of integers that are small enough to be exact in every order of summation.

    It is for the caller to know that only sums of products of integers lead to it. With few elements the result could
    be whole by luck.
    """
    if leaf.absolute is None or not leaf.floating or leaf.few or leaf.finite < leaf.oracle.numel():
        return False
    if precision == "fp8-quantise":
        return False  # its scales are no powers of two
    bound = min(_EXACT.get(dtype_name(leaf.dtype), 0.0), 2.0**20 if precision == "tf32" else math.inf)
    if float(leaf.absolute.max().item()) > bound:
        return False
    return bool((leaf.oracle == leaf.oracle.round()).all().item())


def pattern_of(values: Any) -> Any:
    """0 finite, 1 NaN, 2 +inf, 3 -inf."""
    kinds = torch.zeros(values.shape, dtype=torch.int8, device=values.device)
    kinds.masked_fill_(values.isnan(), 1).masked_fill_(values == math.inf, 2).masked_fill_(values == -math.inf, 3)
    return kinds


def rounding(dtype: Any, precision: str) -> float:
    """The unit roundoff in which a precision's sums are kept."""
    return 2.0**-53 if dtype is torch.float64 else 2.0**-11 if precision == "tf32" else 2.0**-24


def order_of(leaf: Leaf) -> float:
    """The unit in which adding the leaf's terms in another order errs, relative to their sum."""
    unit = 2.0**-53 if leaf.dtype is torch.float64 else 2.0**-24
    return unit * math.sqrt(min(leaf.reduction, ORDER_TERMS)) if leaf.reduction > 1 else 0.0


def rms_terms(leaf: Leaf, precision: str, *, factor: float | None = None) -> dict[str, float]:
    """What rms(C-O) may be by each term of the rule, by the term's name; the largest decides."""
    factor = factor if factor is not None else 5.0 if leaf.gradient else 4.0 if leaf.few else 2.0
    reference = leaf.pool.reference_rms if leaf.few else leaf.reference_rms
    order = ORDER * order_of(leaf)
    size = leaf.pool.oracle_rms if leaf.few else leaf.rms
    wide = leaf.dtype in (torch.float32, torch.float64)
    return {
        f"{factor:g} times the reference's own error": factor * reference,
        f"the floor of {precision} and {dtype_name(leaf.dtype)}": floor_of(precision, leaf.dtype) * leaf.base,
        f"another order of {leaf.reduction} terms": order * size,
        "operands of tf32 cut off": CUT_OFF * size if precision == "tf32" and leaf.reduction > 1 else 0.0,
        f"{ULPS:g} units in the last place": ULPS * torch.finfo(leaf.dtype).eps * size if wide else 0.0,
    }


def rms_limit(leaf: Leaf, precision: str, *, factor: float | None = None) -> float:
    """The most that rms(C-O) may be."""
    return max(rms_terms(leaf, precision, factor=factor).values())


def relative(value: float, base: float) -> float:
    """`value / base`; 0 for 0 / 0, infinite where only the base is 0."""
    return value / base if base > 0 else 0.0 if value == 0 else math.inf
