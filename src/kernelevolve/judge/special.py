"""What NaN, infinities, -0 and denormals in the inputs may do to a result where a problem promises finite inputs.

In: a Reference, a case of D12, an output that is not what the oracle has. Out: which elements depend on such numbers;
the comparison without these, and what was done to them in words. Left to others: the comparison itself (`accept`),
problems that declare `special_values = "propagate"`, where nothing is left out.

An element depends on the NaN and infinities where the oracle gives another result with any of three finite numbers in
their place (`draw.REPLACED`), and on -0 and denormals where it gives another one with +0 in their place. So what such
a number may change is what the problem says that it changes: its own element, its row, its neighbours in a window. All
others must be as right as ever: an infinity that leaks into another row is wrong under either policy. NaN that comes
out of finite inputs is not looked at here: there the rule has no exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from kernelevolve.errors import ProblemError
from kernelevolve.judge import accept
from kernelevolve.judge.leaf import CHUNK, Leaf, pattern_of
from kernelevolve.protocol import Case
from kernelevolve.tensors import draw

if TYPE_CHECKING:
    from kernelevolve.judge.reference import Reference

#: Name of the comparison that says what was left out; its detail is `PATH: LABEL (figures)`.
CHECK = "special-values"
NO_NAN = "does not propagate NaN"
OTHERS = "special values come out otherwise than in the reference"
TINY = "treats -0 or denormals otherwise than the reference"
_SAME = 8.0  # roundings of the output's dtype within which an element has not changed


@dataclass(frozen=True)
class Reach:
    """Which elements of one output depend on special values of the inputs, flat: on NaN and infinities; on -0 and
    denormals."""

    special: Any
    tiny: Any


class Excuses:
    """The elements that depend on special values, of the latest case that was asked for."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._known: tuple[Case | None, Mapping[str, Reach]] = (None, {})

    def apply(self, case: Case) -> bool:
        """Whether the case has special values and the problem promises that there are none."""
        return case.distribution == draw.SPECIAL and self.reference.opened.special_values == "finite"

    def asks(self, case: Case) -> bool:
        """Whether the case has special values and the problem wants to see them come out."""
        return case.distribution == draw.SPECIAL and self.reference.opened.special_values == "propagate"

    def check_leaf(self, where: accept.Where, case: Case, leaf: Leaf, values: Any) -> accept.Found:
        """`accept.check_leaf`, and where that fails once more without the elements that depend on special values."""
        precision = self.reference.opened.precision
        found = accept.check_leaf(where, leaf, values, precision)
        if all(check.passed for check in found.checks):
            return found
        reach = self._reached(case).get(leaf.path)
        if reach is None:
            return found
        left_out = _whole_picks(leaf, reach.special | reach.tiny)
        # Every value of a narrow dtype is one of float32 too, and that has all the operations.
        wide = torch.float32 if leaf.floating and leaf.dtype.itemsize < 4 else leaf.dtype
        exact = leaf.oracle.to(leaf.dtype).to(wide).reshape(-1)
        own = values.detach().to(exact.device).to(wide).reshape(-1)
        shown = torch.where(left_out, exact, own).to(leaf.dtype).reshape(leaf.oracle.shape)
        again = accept.check_leaf(where, leaf, shown, precision)
        if not all(check.passed for check in again.checks):
            return replace(again, checks=[replace(c, detail=f"{c.detail}; {_BESIDE}") for c in again.checks])
        label = _label(exact, own, reach)
        count = int((left_out & ~_equal(exact, own)).sum().item())
        detail = f"{leaf.path}: {label} ({count} of {exact.numel()} elements, all of which depend on special values)"
        return replace(again, checks=[*again.checks, where.check(CHECK, True, float(count), float(count), detail)])

    def _reached(self, case: Case) -> Mapping[str, Reach]:
        if self._known[0] == case:
            return self._known[1]
        self._known = None, {}
        exact = {leaf.path: leaf for leaf in self.reference.leaves(case)}
        special: dict[str, Any] = {}
        tiny: dict[str, Any] = {}
        for name in (*draw.REPLACED, draw.FLUSHED):
            into = tiny if name == draw.FLUSHED else special
            try:
                others = self.reference.exact(replace(case, distribution=name))
            except ProblemError:
                continue  # numbers that the reference refuses show nothing
            for path, other in others.items():
                if path in exact and other.shape == exact[path].oracle.shape:
                    moved = _changed(exact[path], other)
                    into[path] = into[path] | moved if path in into else moved
        empty = {path: torch.zeros_like(moved) for path, moved in special.items()}
        found = {path: Reach(moved, tiny.get(path, empty[path])) for path, moved in special.items()}
        self._known = case, found
        return found


_BESIDE = "what depends on NaN, infinities, -0 or denormals of the inputs is left out"


def _changed(leaf: Leaf, other: Any) -> Any:
    """Where `other` is another result than O, flat."""
    o_flat, x_flat = leaf.oracle.reshape(-1), other.detach().reshape(-1)
    if not leaf.floating:
        return o_flat != x_flat.to(o_flat.device)
    moved = torch.empty(o_flat.shape, dtype=torch.bool, device=o_flat.device)
    near = _SAME * torch.finfo(leaf.dtype).eps / 2
    for start in range(0, o_flat.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        o, x = o_flat[part].double(), x_flat[part].to(o_flat.device).double()
        other_kind = pattern_of(o.to(leaf.dtype).double()) != pattern_of(x.to(leaf.dtype).double())
        moved[part] = other_kind | ((x - o).abs() > near * o.abs())
    return moved


def _whole_picks(leaf: Leaf, reach: Any) -> Any:
    """Positions that were picked together: one special value moves all of them."""
    if leaf.pick is None or not leaf.pick.unique or leaf.pick.dim is None or not leaf.oracle.dim():
        return reach
    shaped = reach.reshape(leaf.oracle.shape)
    return shaped.any(dim=leaf.pick.dim, keepdim=True).expand(leaf.oracle.shape).reshape(-1)


def _equal(one: Any, other: Any) -> Any:
    return (one == other) | ((one != one) & (other != other))


def _label(exact: Any, own: Any, reach: Reach) -> str:
    """What became of the elements that were left out, the plainest first."""
    if bool((reach.special & (exact != exact) & (own == own)).any().item()):
        return NO_NAN
    return OTHERS if bool((reach.special & ~_equal(exact, own)).any().item()) else TINY
