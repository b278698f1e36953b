"""The acceptance rule: whether an output is as right as its declared precision allows (never a flat `allclose`).

In: O (fp64 oracle on the rounded inputs), R (the honest reference in the declared precision), C (the candidate's
output). Out: `Check` values with statistic and limit. Left to others: obtaining O, R and C, and the limits (`leaf`).

1. shape and dtype exact; any layout, but not one element repeated by a zero stride where the reference has none.
2. NaN, +inf and -inf stand exactly where O, rounded to the output's dtype, has them. Elements where R itself differs
   from O in this are left out, and the case is unusable.
3. rms rule: rms(C-O) <= max(2 rms(R-O), FLOOR rms(O - mean(O)), ORDER 2^-24 sqrt(K) rms(O), ULPS u rms(O)), and for
   tf32 sums also CUT_OFF rms(O), since tensor cores cut their operands off; factor 5 instead of 2 for gradients. The
   third term is twice what adding up K terms one after the other in fp32 does to sums that do not cancel (inputs above
   zero); K is the longest reduction, at most 16384. The fourth leaves room for two units in the last place, u = 2^-23,
   of a float32 output that hardly varies. Outputs with fewer than 64 elements: rms(O) for the centred one, R-O and O
   pooled over the reference's calibration draws, factor 4 for one case alone and 2 for the pool once it holds 32 cases.
4. element rule: |C-O| <= max(4 max|R-O|, (8 u_out + WORST u sqrt(K)) |O| + 8 u_acc S), factor 10 for gradients, u =
   2^-24. S is the reference run on absolute values where it only adds, multiplies, moves and clips from below; else
   sqrt(K) rms(O). The second term is 6 times what adding K terms of one sign one after the other does: the worst of a
   few thousand such sums is at half of it, where R itself may be right to the last place. Where R's errors have a
   heavy tail, max|R-O| is one draw of few: `conditioning` then gives a second opinion.
5. integers and booleans exact, and so are sums of products of small integers in a floating type (`leaf.exactly`);
   positions (argmax, sort, top-k) through the values that they point at, top-k and sort without duplicates.
All sums run in chunks, in fp64, over every element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernelevolve.evaluation import Check
from kernelevolve.judge.conditioning import largest_error
from kernelevolve.judge.leaf import CHUNK, POOL, WORST, Leaf, order_of, pattern_of, relative, rms_limit, rounding
from kernelevolve.judge.oracle import Pick, gather_values
from kernelevolve.tensors.outputs import TensorMeta, dtype_name, dtype_of


@dataclass
class Tally:
    """Squares of one candidate's errors over several cases of one small output."""

    cases: int = 0
    count: int = 0
    square: float = 0.0


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
    if leaf.exact:
        return Found([_check_whole(where, leaf, values)])
    return _check_floating(where, leaf, values, precision, tally)


def _check_whole(where: Where, leaf: Leaf, values: Any) -> Check:
    """Sums of products of small integers are the same in every order of summation: nothing is rounded."""
    found = _check_exact(where, leaf, values)
    return replace(found, detail=f"{found.detail} (sums of products of small integers are exact)")


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
    u_acc = rounding(leaf.dtype, precision)
    own = 8 * u_out + WORST * order_of(leaf)
    allowed = (10.0 if leaf.gradient else 4.0) * largest_error(leaf)
    spread = math.sqrt(leaf.reduction) * (leaf.pool.oracle_rms if leaf.few else leaf.rms)
    for start in range(0, o_flat.numel(), CHUNK):
        o = o_flat[start : start + CHUNK].double()
        c = c_flat[start : start + CHUNK].to(o.device).double()
        pattern = pattern_of(o.to(leaf.dtype).double())
        excused = torch.zeros(o.shape, dtype=torch.bool, device=o.device)
        if leaf.loose is not None:
            inside = leaf.loose[(leaf.loose >= start) & (leaf.loose < start + o.numel())] - start
            excused[inside] = True
        differs = (pattern != pattern_of(c)) & ~excused
        if differs.any().item():
            tally.pattern += int(differs.sum().item())
            tally.pattern_at = start + int(differs.nonzero()[0].item()) if tally.pattern_at < 0 else tally.pattern_at
        keep = (pattern == 0) & ~excused & c.isfinite()
        exact = torch.where(keep, o, 0.0)
        delta = torch.where(keep, c - exact, 0.0).abs_()
        tally.square += delta.square().sum().item()
        scale = spread if s_flat is None else torch.where(keep, s_flat[start : start + CHUNK], 0.0)
        limit = (own * exact.abs() + 8 * u_acc * scale).clamp_(min=allowed)
        ratio = torch.where(delta > 0, delta / limit, 0.0)
        tally.beyond += int((ratio > 1).sum().item())
        top = ratio.max()
        if top.item() > tally.worst:
            tally.worst, tally.worst_at = top.item(), start + int(ratio.argmax().item())
    return tally


def _place(leaf: Leaf, flat: int) -> list[int]:
    place = []
    for size in reversed(leaf.oracle.shape):
        place.append(flat % size)
        flat //= size
    return place[::-1]
