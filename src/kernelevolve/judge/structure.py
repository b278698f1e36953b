"""What the judge says about calls beside their values: what a call left alone, and how two results differ.

In: a `Reference`, Cases, the worker's inputs, state and guard bands after a call, or its outputs. Out: names and
figures. Left to others: the acceptance rule (`accept`), which calls are made and the verdict (`evaluate.structure`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kernelevolve import codec
from kernelevolve.errors import MachineError
from kernelevolve.evaluation import Check
from kernelevolve.judge import oracle
from kernelevolve.judge.arrived import arrived, metas_of
from kernelevolve.judge.leaf import CHUNK, pattern_of, rms_limit
from kernelevolve.judge.reference import Reference
from kernelevolve.protocol import Case, Patch
from kernelevolve.tensors import bands
from kernelevolve.tensors.outputs import TensorMeta
from kernelevolve.wire import Message

Values = Callable[[TensorMeta], Any]
POWERS = (-6, -2, 3, 6)
FAR = 1e300  # stands for infinity, which JSON does not have


def changed(
    reference: Reference, case: Case, metas: Sequence[TensorMeta], values: Values, seed: int | None, allowed: set[str]
) -> tuple[list[str], list[str]]:
    """Which inputs and parameters are no longer what this process draws for `case`, and which guard bands are written.

    Args:
        metas: of `given:NAME`, `kept:NAME`, `band:low:NAME` and `band:high:NAME`.
        seed: of the bands.
        allowed: names of inputs, parameters and buffers that the call may change.
    """
    inputs = dict(reference.inputs(case))
    state = dict(reference.state(case))
    moved, written = [], []
    for meta in metas:
        kind, _, name = meta.path.partition(":")
        if kind == "band":
            side, _, name = name.partition(":")
            expected = bands.pattern(seed or 0, name, "low" if side == "low" else "high", reference.opened.device)
            if not torch.equal(values(meta).to(expected.device).reshape(-1), expected):
                written.append(f"{'before' if side == 'low' else 'after'} {name}")
            continue
        expected = (inputs if kind == "given" else state).get(name)
        if expected is None or name in allowed:
            continue
        if tuple(expected.shape) != meta.shape or not _same(expected.detach(), values(meta)):
            moved.append(name)
    return moved, written


def _same(one: Any, other: Any) -> bool:
    """Bit by bit, so that a NaN is equal to itself."""
    if one.dtype is not other.dtype:
        return False
    a, b = one.contiguous().reshape(-1), other.to(one.device).contiguous().reshape(-1)
    return not a.numel() or bool(torch.equal(a.view(torch.uint8), b.view(torch.uint8)))


class Results:
    """Outputs of one call, to be held against those of others on the same inputs."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._first: dict[str, Any] = {}

    def keep(self, metas: Sequence[TensorMeta], values: Values) -> None:
        """Takes a copy of the outputs."""
        self._first = {m.path: values(m).clone() for m in metas if m.kind == "Tensor" and m.nbytes}

    def difference(self, case: Case, metas: Sequence[TensorMeta], values: Values, power: int) -> dict[str, float]:
        """The largest part of what the acceptance rule allows for (rms) by which an output differs from the kept one
        times 2^power; 0 for equal bits, infinite for whole numbers, missing outputs and other NaN. By path."""
        leaves = {leaf.path: leaf for leaf in self.reference.leaves(case)}
        found: dict[str, float] = {}
        given = {m.path: m for m in metas}
        for path, first in self._first.items():
            leaf, meta = leaves.get(path), given.get(path)
            if leaf is None:
                continue
            if meta is None or meta.shape != tuple(first.shape):
                found[path] = math.inf
                continue
            wanted = first * 2.0**power if power else first
            limit = rms_limit(leaf, self.reference.opened.precision) if leaf.floating else 0.0
            found[path] = _spread(wanted, values(meta), limit * 2.0**power)
        return found


def _spread(one: Any, other: Any, limit: float) -> float:
    if _same(one, other):
        return 0.0
    if not one.is_floating_point():
        return math.inf
    a_flat, b_flat, square, count = one.reshape(-1), other.reshape(-1), 0.0, 0
    for start in range(0, a_flat.numel(), CHUNK):
        a = a_flat[start : start + CHUNK].double()
        b = b_flat[start : start + CHUNK].to(a.device).double()
        if (pattern_of(a) != pattern_of(b)).any().item():
            return math.inf
        finite = a.isfinite()
        square += (a[finite] - b[finite]).square().sum().item()
        count += int(finite.sum().item())
    rms = math.sqrt(square / max(1, count))
    return rms / limit if limit > 0 else 0.0 if rms == 0 else math.inf


def homogeneous(reference: Reference, case: Case) -> list[str]:
    """The inputs of which every output is a homogeneous function of degree 1, so that scaling one by a power of two
    scales the outputs bit by bit: the reference only adds, multiplies and moves, and its own result does so.

    Denormal numbers and overflow would break it; the reference's own result has shown that there are none.
    """
    mode = oracle.Upcast()
    reference.rerun(case, double=True, mode=mode)
    if not oracle.only_sums(mode.trace) or reference.opened.direction != "forward":
        return []
    plain = _outputs(reference.rerun(case))
    found = []
    for spec in reference.opened.description.inputs:
        if spec.kind != "values" or not spec.dtype:
            continue
        for power in POWERS:
            scaled = Case(
                case.seed, case.distribution, case.redraw_state, case.state, (Patch(spec.name, "scaled", power),)
            )
            other = _outputs(reference.rerun(scaled))
            if not all(_same(plain[path] * 2.0**power, other[path]) for path in plain):
                break
        else:
            found.append(spec.name)
    return found


def _outputs(leaves: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    return {path: leaf for path, leaf in leaves if not path.startswith(("state:", "input:"))}


def explained(reference: Reference, cases: Sequence[Case], metas: Sequence[TensorMeta], values: Values) -> int:
    """The first of `cases` for which these outputs are right, although they were given for another one; -1 if none."""
    for index, case in enumerate(cases):
        if not reference.compute(case).usable:
            continue
        shown = [m for m in metas if not m.path.startswith(("state:", "input:"))]
        checks = [c for c in reference.compare(case, shown, values).checks if _of_values(c)]
        if checks and all(c.passed for c in checks):
            return index
    return -1


def _of_values(check: Check) -> bool:
    """State and changed inputs are not what is asked here."""
    return not check.detail.startswith(("state:", "input:"))


State = dict[str, Any]
Answered = tuple[str, dict[str, Any]]


def _reference(state: State) -> Reference:
    if "reference" not in state:
        raise MachineError("ask 'oracle' first")
    return state["reference"]  # type: ignore[no-any-return]


def _case(message: Message) -> Case:
    return codec.from_data(Case, message.body["case"])


def _changed(state: State, message: Message) -> Answered:
    reference, allowed = _reference(state), set(message.body.get("allowed", ()))
    with arrived(message, reference.opened.device) as values:
        seed = message.body.get("bands")
        inputs, written = changed(reference, _case(message), metas_of(message), values, seed, allowed)
    return "changed", {"inputs": inputs, "bands": written}


def _results(state: State, message: Message) -> Answered:
    reference = _reference(state)
    results: Results = state.setdefault("results", Results(reference))
    with arrived(message, reference.opened.device) as values:
        if message.body.get("keep"):
            results.keep(metas_of(message), values)
            return "results", {"difference": {}}
        power = int(message.body.get("power", 0))
        found = results.difference(_case(message), metas_of(message), values, power)
    return "results", {"difference": {path: min(part, FAR) for path, part in found.items()}}


def _explain(state: State, message: Message) -> Answered:
    reference, cases = _reference(state), [codec.from_data(Case, c) for c in message.body["cases"]]
    with arrived(message, reference.opened.device) as values:
        return "explained", {"index": explained(reference, cases, metas_of(message), values)}


def _linear(state: State, message: Message) -> Answered:
    return "linear", {"inputs": homogeneous(_reference(state), _case(message))}


ANSWERS: dict[str, Callable[[State, Message], Answered]] = {
    "changed": _changed,
    "results": _results,
    "explain": _explain,
    "linear": _linear,
}
