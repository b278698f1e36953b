"""Compares the results of timed calls: some in full with the fp64 oracle, all others with the honest reference.

In: a `Reference`, the Case of each timed call and what the worker held of it. Out: one `Looked` per call, and which
earlier call an output really belongs to. Left to others: which calls are looked at in full (the host decides once the
burst is over), the rule (`accept`), the verdict (the host).

The short way compares C with R alone, which costs one run of the reference. By the full rule rms(C - O) is at most L,
and L is at least twice rms(R - O); so a C that the full rule accepts has rms(C - R) <= 1.5 L. The limit used is 2 L,
with L relative to the output's spread as the full comparisons of the same distribution found it; a C inside it has
rms(C - O) <= 2.5 L. Single elements may differ by twice the largest limit that the full rule gave any element. Being
outside says nothing yet: such a call is compared in full, and only that convicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve.evaluation import Check
from kernelevolve.judge.conditioning import largest_error
from kernelevolve.judge.leaf import CHUNK, Leaf, pattern_of, rms_limit, rounding
from kernelevolve.judge.reference import Reference
from kernelevolve.protocol import Case
from kernelevolve.tensors.outputs import TensorMeta

SLACK = 2.0
SINGLE_INPUTS = 8  # tensors of which each is tried as the only one that is stale
QUICK_CHUNK, QUICK_SHARE = 1 << 27, 0.99
_QUICK = (torch.float32, torch.float16, torch.bfloat16)
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Looked:
    """What was found of one timed call.

    Attributes:
        full: whether the full rule was applied; else the short one, which it passed.
        usable: whether passing means anything on these inputs.
        passed: whether every comparison was passed.
        checks: of the full rule: those that failed, or the one that came nearest to its limit.
    """

    full: bool
    usable: bool
    passed: bool
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Limit:
    """Relative limits of one output: of the rms error to the output's spread, of one element's to its rms."""

    rms: float
    element: float
    constant: bool


class TimedCalls:
    """The timed calls of candidates on one opened reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._limits: dict[tuple[str, str], Limit] = {}

    def look(self, case: Case, metas: Sequence[TensorMeta], values: Values, *, full: bool, candidate: str) -> Looked:
        """Compares one call's outputs; in full where asked, where nothing is known yet, or the short way fails."""
        if not full and self._known(case, metas) and self._near(case, values):
            return Looked(False, True, True)
        computed = self.reference.compute(case)
        if not computed.usable:
            return Looked(True, False, True)
        self._learn(case)
        shown = [m for m in metas if m.path in computed.outputs or not m.path.startswith(("state:", "input:"))]
        compared = self.reference.compare(case, shown, lambda meta: _arrived(values, meta), candidate)
        # Buffers and inputs that a call changes are compared in the untimed calls, where each call starts afresh.
        checks = [c for c in compared.checks if not c.detail.startswith(("state:", "input:"))]
        wrong = [c for c in checks if not c.passed]
        nearest = max(checks, key=lambda c: c.value / c.limit if c.limit else 0.0)
        self.reference.drop(case)  # nobody has these inputs again, and others wait for the memory
        return Looked(True, True, not wrong, tuple(wrong or [nearest]))

    def right_for(self, case: Case, values: Values) -> bool:
        """Whether these outputs are near the right ones for another call's inputs."""
        return self._near(case, values)

    def right_with_stale(self, case: Case, earlier: Case, values: Values) -> str:
        """The input that the outputs took from `earlier`, everything else being of `case`; empty if there is none."""
        now, tree = pytree.tree_flatten(self.reference.arguments(case))
        then = pytree.tree_leaves(self.reference.arguments(earlier))
        names = [spec.name for spec in self.reference.opened.description.inputs]
        moving = [i for i, leaf in enumerate(now) if hasattr(leaf, "shape") and leaf.numel()]
        for i in moving[:SINGLE_INPUTS] if len(moving) > 1 else ():
            mixed = [then[j] if j == i else leaf for j, leaf in enumerate(now)]
            if self._near(case, values, list(pytree.tree_unflatten(mixed, tree))):
                return names[i]
        return ""

    def _known(self, case: Case, metas: Sequence[TensorMeta]) -> bool:
        described = {o.path: o for o in self.reference.opened.description.outputs}
        fits = {m.path for m in metas if m.kind == "Tensor"} == set(described) and all(
            m.shape == described[m.path].shape and m.dtype == described[m.path].dtype for m in metas
        )
        return fits and all((case.distribution, path) in self._limits for path in described)

    def _learn(self, case: Case) -> None:
        """Takes note of the limits that the full rule has set for this case."""
        for leaf in self.reference.leaves(case):
            if leaf.path.startswith(("state:", "input:")):
                continue
            key, found = (case.distribution, leaf.path), _limit_of(leaf, self.reference.opened.precision)
            known = self._limits.get(key, found)
            self._limits[key] = Limit(
                max(found.rms, known.rms), max(found.element, known.element), found.constant or known.constant
            )

    def _near(self, case: Case, values: Values, arguments: Sequence[Any] | None = None) -> bool:
        honest = self.reference.rerun(case, arguments)
        judged = [(p, r) for p, r in honest if not p.startswith(("state:", "input:"))]
        return all(
            path in values and self._leaf_near(self._limits.get((case.distribution, path)), honest_leaf, values[path])
            for path, honest_leaf in judged
        )

    @staticmethod
    def _leaf_near(limit: Limit | None, honest: Any, found: Any) -> bool:
        if limit is None or found.shape != honest.shape or found.dtype != honest.dtype:
            return False
        r_flat, c_flat = honest.detach().reshape(-1), found.detach().reshape(-1)
        if not honest.is_floating_point():
            return bool((r_flat == c_flat.to(r_flat.device)).all().item())
        if r_flat.dtype in _QUICK and r_flat.device.type != "cpu" and quickly_near(limit, r_flat, c_flat):
            return True
        count, total, square, error, largest = 0, 0.0, 0.0, 0.0, 0.0
        for start in range(0, r_flat.numel(), CHUNK):
            r = r_flat[start : start + CHUNK].double()
            c = c_flat[start : start + CHUNK].to(r.device).double()
            pattern = pattern_of(r)
            if (pattern != pattern_of(c)).any().item():
                return False
            r, c = r[pattern == 0], c[pattern == 0]
            if not r.numel():
                continue
            delta = c - r
            count += r.numel()
            total, square = total + r.sum().item(), square + r.square().sum().item()
            error, largest = error + delta.square().sum().item(), max(largest, delta.abs().max().item())
        if not count:
            return True
        size = math.sqrt(square / count)
        spread = size if limit.constant else math.sqrt(max(0.0, square / count - (total / count) ** 2))
        near_enough = math.sqrt(error / count) <= SLACK * limit.rms * spread
        return near_enough and largest <= SLACK * limit.element * size


def quickly_near(limit: Limit, r_flat: Any, c_flat: Any) -> bool:
    """Whether C is surely near R, in float32 and without a look at single elements; False decides nothing.

    Both are flat and of one floating type, and stay as they are.

    Two numbers near each other are subtracted without an error, so only sums are rounded; 1 % is left for those. What
    is not finite, or not near by this, is looked at in float64.
    """
    if not r_flat.numel():
        return False
    sums = torch.zeros(4, dtype=torch.float64, device=r_flat.device)  # of r, r^2, (c - r)^2; largest |c - r|
    for start in range(0, r_flat.numel(), QUICK_CHUNK):
        r = r_flat[start : start + QUICK_CHUNK].float()
        # Never in place: float32 in the worker's own memory is compared where it lies, and once more if this is unsure.
        delta = torch.sub(c_flat[start : start + QUICK_CHUNK].to(r.device), r)
        sums[0] += r.sum(dtype=torch.float64)
        sums[1] += torch.linalg.vector_norm(r).double().square()
        sums[2] += torch.linalg.vector_norm(delta).double().square()
        sums[3] = torch.maximum(sums[3], torch.linalg.vector_norm(delta, math.inf).double())
    total, square, error, largest = sums.tolist()
    count = r_flat.numel()
    if not all(map(math.isfinite, (total, square, error, largest))):
        return False
    size = math.sqrt(square / count)
    spread = size if limit.constant else math.sqrt(max(0.0, square / count - (total / count) ** 2))
    near = math.sqrt(error / count) <= QUICK_SHARE * SLACK * limit.rms * spread
    return near and largest <= QUICK_SHARE * SLACK * limit.element * size


def _arrived(values: Values, meta: TensorMeta) -> Any:
    if meta.path not in values:
        raise ValueError(f"{meta.path}: its bytes did not arrive")
    return values[meta.path]


def _limit_of(leaf: Leaf, precision: str) -> Limit:
    """The full rule's limits for this leaf, relative to its spread and its rms."""
    constant = leaf.few or leaf.constant
    size = leaf.pool.oracle_rms if leaf.few else leaf.rms
    if not leaf.floating or not leaf.base or not size:
        return Limit(0.0, 0.0, constant)
    u_out = float(torch.finfo(leaf.dtype).eps) / 2
    summed = math.sqrt(leaf.reduction) * size if leaf.absolute is None else _largest(leaf.absolute)
    allowed = (10.0 if leaf.gradient else 4.0) * largest_error(leaf)
    element = max(allowed, 8 * u_out * _largest(leaf.oracle) + 8 * rounding(leaf.dtype, precision) * summed)
    return Limit(rms_limit(leaf, precision) / leaf.base, element / size, constant)


def _largest(values: Any) -> float:
    finite = values[values.isfinite()]
    return float(finite.abs().max().item()) if finite.numel() else 0.0
