"""The acceptance rule: whether an output is as right as its declared precision allows (never a flat `allclose`).

In: O (fp64 oracle on the rounded inputs), R (the honest reference in the declared precision), C (the candidate's
output). Out: `Check` values with statistic and limit. Left to others: obtaining O, R and C.

1. shape and dtype exact; any layout, but not one element repeated by a zero stride where the reference has none.
2. NaN, +inf and -inf stand exactly where O, rounded to the output's dtype, has them. Elements where R itself differs
   from O in this are left out, and the case is unusable.
3. rms rule: rms(C-O) <= max(2 rms(R-O), FLOOR rms(O - mean(O))); factor 5 instead of 2 for gradients. Outputs with
   fewer than 64 elements: rms(O) for the centred one, R-O and O pooled over the reference's calibration draws, factor 4
   for one case alone and 2 for the pool once it holds 32 cases.
4. element rule: |C-O| <= max(4 max|R-O|, 8 u_out |O| + 8 u_acc S), factor 10 for gradients. S is the reference run on
   absolute values where it only adds, multiplies, moves and clips from below; else sqrt(longest reduction) rms(O).
5. integers and booleans exact; positions (argmax, sort, top-k) through the values that they point at, top-k and sort
   without duplicates.
All sums run in chunks, in fp64, over every element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from kernelevolve.evaluation import Check
from kernelevolve.judge.oracle import Pick, gather_values
from kernelevolve.tensors.outputs import TensorMeta, dtype_name, dtype_of

CHUNK = 1 << 24
FEW = 64
POOL = 32
# Largest rms error relative to the centred oracle that honest kernels of a precision stay under, with a margin.
FLOORS = {"fp32-strict": 5e-6, "tf32": 1e-3, "fp16": 1e-3, "bf16": 4e-3, "fp8-operands": 0.0, "fp8-quantise": 8e-2}
# The same for the rounding of the output alone: an output in bf16 cannot be closer than bf16.
DTYPE_FLOORS = {"float64": 1e-12, "float32": 5e-6, "float16": 1e-3, "bfloat16": 4e-3}
FP8_FLOOR = 8e-2


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
class Tally:
    """Squares of one candidate's errors over several cases of one small output."""

    cases: int = 0
    count: int = 0
    square: float = 0.0


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
    loose: Any | None = None
    constant: bool = False
    unusable: str = ""
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
    if leaf.oracle.numel() and not leaf.finite:
        leaf.unusable = "the exact output is nowhere finite"
    elif leaf.loose is not None:
        leaf.unusable = "the reference overflows where the exact result is finite"
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
        pattern, own = _pattern(o.to(leaf.dtype).double()), _pattern(r)
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
        keep = _pattern(o.to(leaf.dtype).double()) == 0
        square += torch.where(keep, o - leaf.mean, 0.0).square().sum().item()
    return math.sqrt(square / max(1, leaf.finite))


def _pattern(values: Any) -> Any:
    """0 finite, 1 NaN, 2 +inf, 3 -inf."""
    kinds = torch.zeros(values.shape, dtype=torch.int8, device=values.device)
    kinds.masked_fill_(values.isnan(), 1).masked_fill_(values == math.inf, 2).masked_fill_(values == -math.inf, 3)
    return kinds


def rms_limit(leaf: Leaf, precision: str, *, factor: float | None = None) -> float:
    """The most that rms(C-O) may be."""
    factor = factor if factor is not None else 5.0 if leaf.gradient else 4.0 if leaf.few else 2.0
    reference = leaf.pool.reference_rms if leaf.few else leaf.reference_rms
    return max(factor * reference, floor_of(precision, leaf.dtype) * leaf.base)


@dataclass(frozen=True)
class Where:
    """What is printed with each check."""

    workload: str
    distribution: str
    seed: int
    limited: str = ""

    def check(self, name: str, passed: bool, value: float, limit: float, detail: str) -> Check:
        detail = f"{detail} ({self.limited})" if self.limited else detail
        return Check(name, self.workload, self.distribution, self.seed, passed, value, limit, detail)


def check_meta(where: Where, leaf: Leaf, meta: TensorMeta | None, device: str) -> Check:
    """Shape, dtype, class and kind of device, exactly."""
    wanted = f"{dtype_name(leaf.dtype)}{list(leaf.oracle.shape)}"
    if meta is None:
        return where.check("meta", False, 1.0, 0.0, f"{leaf.path}: missing; the reference gives {wanted}")
    found = f"{meta.dtype}{list(meta.shape)}"
    problem = ""
    if meta.kind != "Tensor":
        problem = f"is a {meta.kind}, not a plain torch.Tensor"
    elif found != wanted:
        problem = f"is {found}, the reference gives {wanted}"
    elif meta.device.split(":")[0] != device.split(":")[0]:
        problem = f"is on {meta.device}, the reference on {device}"
    elif any(s == 0 and n > 1 and r != 0 for s, n, r in zip(meta.stride, meta.shape, leaf.stride, strict=False)):
        problem = f"repeats one element by a zero stride {list(meta.stride)}"
    return where.check("meta", not problem, float(bool(problem)), 0.0, f"{leaf.path}: {problem or wanted}")


@dataclass
class Found:
    """What comparing one leaf gave: checks, and the candidate's rms error relative to `Leaf.base`."""

    checks: list[Check]
    own: float = 0.0
    reference: float = 0.0


def check_leaf(where: Where, leaf: Leaf, values: Any, precision: str, tally: Tally | None = None) -> Found:
    """Compares the candidate's values (same shape and dtype as the reference's) with the oracle.

    Args:
        tally: of this candidate's errors so far, where few elements are pooled over cases.
    """
    if values.dtype is not leaf.dtype or values.shape != leaf.oracle.shape:
        raise ValueError(f"{leaf.path}: metadata must be checked before values")
    if not leaf.floating:
        return Found([_check_exact(where, leaf, values)])
    return _check_floating(where, leaf, values, precision, tally)


def _check_exact(where: Where, leaf: Leaf, values: Any) -> Check:
    if leaf.pick is not None:
        return _check_positions(where, leaf, leaf.pick, values)
    wrong, first = 0, -1
    o_flat, c_flat = leaf.oracle.reshape(-1), values.reshape(-1)
    for start in range(0, o_flat.numel(), CHUNK):
        o = o_flat[start : start + CHUNK]
        differs = c_flat[start : start + CHUNK].to(o.device) != o
        wrong += int(differs.sum().item())
        if wrong and first < 0:
            first = start + int(differs.nonzero()[0].item())
    detail = f"{leaf.path}: {wrong} of {o_flat.numel()} elements differ"
    if wrong:
        detail += f", first at {_place(leaf, first)}: {c_flat[first].item()} instead of {o_flat[first].item()}"
    return where.check("exact", wrong == 0, float(wrong), 0.0, detail)


def _check_positions(where: Where, leaf: Leaf, pick: Pick, values: Any) -> Check:
    """Positions may differ in ties: the values at the candidate's positions must equal those at the oracle's."""
    index = values.to(leaf.oracle.device)
    best, own = gather_values(pick, leaf.oracle), gather_values(pick, index)
    wrong = ~((best == own) | (best.isnan() & own.isnan() & (index.reshape(-1) == leaf.oracle.reshape(-1))))
    detail = f"{leaf.path}: {int(wrong.sum().item())} of {best.numel()} positions point at another value"
    if pick.unique and not wrong.any().item() and pick.dim is not None and index.dim():
        ordered = index.sort(dim=pick.dim).values
        twice = int((ordered.diff(dim=pick.dim) == 0).sum().item())
        if twice:
            return where.check("positions", False, float(twice), 0.0, f"{leaf.path}: {twice} positions appear twice")
    if wrong.any().item():
        first = int(wrong.nonzero()[0].item())
        detail += f", first at flat index {first}: {own[first].item():g} instead of {best[first].item():g}"
    return where.check("positions", not bool(wrong.any().item()), float(wrong.sum().item()), 0.0, detail)


def _check_floating(where: Where, leaf: Leaf, values: Any, precision: str, pooled: Tally | None) -> Found:
    tally = _tally(leaf, values, precision)
    count = leaf.oracle.numel()
    pattern = f"{leaf.path}: NaN and infinities {'stand where they should' if not tally.pattern else 'differ'}"
    if tally.pattern:
        place = tally.pattern_at
        got, exact = values.reshape(-1)[place].item(), leaf.oracle.reshape(-1)[place].item()
        pattern += (
            f" at {tally.pattern} of {count} elements, first at {_place(leaf, place)}: {got:g} instead of {exact:g}"
        )
    checks = [where.check("non-finite", tally.pattern == 0, float(tally.pattern), 0.0, pattern)]
    rms = math.sqrt(tally.square / max(1, leaf.finite))
    limit, base = rms_limit(leaf, precision), leaf.base
    own, reference = relative(rms, base), relative(leaf.pool.reference_rms if leaf.few else leaf.reference_rms, base)
    note = f"{leaf.path}: rms error {own:.3g} of the output's {'rms' if leaf.few or leaf.constant else 'spread'}"
    checks.append(where.check("rms", rms <= limit, rms, limit, f"{note}; the reference's own is {reference:.3g}"))
    detail = f"{leaf.path}: {tally.beyond} of {count} elements beyond their limit"
    if tally.beyond:
        place = tally.worst_at
        got, exact = values.reshape(-1)[place].item(), leaf.oracle.reshape(-1)[place].item()
        detail += f", worst at {_place(leaf, place)}: {got:.9g} instead of {exact:.9g}"
    checks.append(where.check("element", tally.beyond == 0, tally.worst, 1.0, detail))
    if leaf.few and pooled is not None:
        checks += _pooled(where, leaf, pooled, tally.square, precision)
    return Found(checks, own, reference)


def _pooled(where: Where, leaf: Leaf, tally: Tally, square: float, precision: str) -> list[Check]:
    tally.cases, tally.count, tally.square = tally.cases + 1, tally.count + leaf.finite, tally.square + square
    if tally.cases < POOL:
        return []
    rms = math.sqrt(tally.square / max(1, tally.count))
    limit = rms_limit(leaf, precision, factor=5.0 if leaf.gradient else 2.0)
    detail = f"{leaf.path}: rms error over {tally.cases} cases"
    return [where.check("rms-pooled", rms <= limit, rms, limit, detail)]


@dataclass
class _Errors:
    square: float = 0.0
    pattern: int = 0
    pattern_at: int = -1
    beyond: int = 0
    worst: float = 0.0
    worst_at: int = -1


def _tally(leaf: Leaf, values: Any, precision: str) -> _Errors:
    tally = _Errors()
    o_flat, c_flat = leaf.oracle.reshape(-1), values.detach().reshape(-1)
    s_flat = None if leaf.absolute is None else leaf.absolute.reshape(-1)
    u_out = torch.finfo(dtype_of(dtype_name(leaf.dtype))).eps / 2
    u_acc = 2.0**-53 if leaf.dtype is torch.float64 else 2.0**-11 if precision == "tf32" else 2.0**-24
    largest = leaf.pool.largest if leaf.few else leaf.reference_max
    allowed = (10.0 if leaf.gradient else 4.0) * largest
    spread = math.sqrt(leaf.reduction) * (leaf.pool.oracle_rms if leaf.few else leaf.rms)
    for start in range(0, o_flat.numel(), CHUNK):
        o = o_flat[start : start + CHUNK].double()
        c = c_flat[start : start + CHUNK].to(o.device).double()
        pattern = _pattern(o.to(leaf.dtype).double())
        excused = torch.zeros(o.shape, dtype=torch.bool, device=o.device)
        if leaf.loose is not None:
            inside = leaf.loose[(leaf.loose >= start) & (leaf.loose < start + o.numel())] - start
            excused[inside] = True
        differs = (pattern != _pattern(c)) & ~excused
        if differs.any().item():
            tally.pattern += int(differs.sum().item())
            tally.pattern_at = start + int(differs.nonzero()[0].item()) if tally.pattern_at < 0 else tally.pattern_at
        keep = (pattern == 0) & ~excused & c.isfinite()
        exact = torch.where(keep, o, 0.0)
        delta = torch.where(keep, c - exact, 0.0).abs_()
        tally.square += delta.square().sum().item()
        scale = spread if s_flat is None else torch.where(keep, s_flat[start : start + CHUNK], 0.0)
        limit = (8 * u_out * exact.abs() + 8 * u_acc * scale).clamp_(min=allowed)
        ratio = torch.where(delta > 0, delta / limit, 0.0)
        tally.beyond += int((ratio > 1).sum().item())
        top = ratio.max()
        if top.item() > tally.worst:
            tally.worst, tally.worst_at = top.item(), start + int(ratio.argmax().item())
    return tally


def relative(value: float, base: float) -> float:
    """`value / base`; 0 for 0 / 0, infinite where only the base is 0."""
    return value / base if base > 0 else 0.0 if value == 0 else math.inf


def _place(leaf: Leaf, flat: int) -> list[int]:
    place = []
    for size in reversed(leaf.oracle.shape):
        place.append(flat % size)
        flat //= size
    return place[::-1]
