"""Candidates that were built to the same launches as one that was measured: they hold no device.

In: what was built of a candidate at its default choice. Out: the candidate of this session that it repeats, with its
Evaluation. Left to others: telling it (`search.novelty`), skipping the rungs (`ladder`).

The same machine code under another grid computes another thing, and two files may be the same at one choice of knobs
only. So twins have the same knobs, and the same code, grids, arguments, fills and copies at the default choice and at
the one that was tuned for the first of them, for every workload. And a file may do on a device what it did not do while
its launches were recorded: all of its Python outside of the kernels' bodies is the same, too. Only correct ones are
twins: a wrong result may come from what is no launch.
"""

from __future__ import annotations

import ast
import hashlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kernelevolve import codec
from kernelevolve.candidate import Candidate, Choice
from kernelevolve.evaluate.building import Built
from kernelevolve.evaluate.correct import Failed
from kernelevolve.evaluation import Evaluation, Guard, LaunchPlan, Rung, RungReport
from kernelevolve.syntax import parse

# By these a name can be bound that no reader of the file sees bound.
_REACHES_NAMES = frozenset(("eval", "exec", "compile", "globals", "locals", "vars", "setattr", "__import__"))
Knobs = Mapping[str, Sequence[Choice]]


class Builds(Protocol):
    """What is used of a `Builder`."""

    def build(self, source: str, choice: Mapping[str, Choice], workloads: Sequence[str] = ()) -> list[Built]: ...


@dataclass(frozen=True)
class Twin:
    """A candidate that was measured, and what was found."""

    candidate: Candidate
    evaluation: Evaluation


class Twins:
    """What the correct candidates of one session on one platform were built to. Any thread may ask and tell."""

    def __init__(self) -> None:
        self._known: dict[str, Twin] = {}
        self._lock = threading.Lock()

    def of(self, candidate: Candidate, knobs: Knobs, built: Sequence[Built], builder: Builds) -> Twin | None:
        """The first candidate with the same knobs, launches and Python; None where there is none."""
        key = _key(knobs, built, candidate)
        with self._lock:
            twin = self._known.get(key)
        if twin is None:
            return None
        for timing in twin.evaluation.timings:
            there, here = (_tuned(builder, one, timing.knobs, timing.workload) for one in (twin.candidate, candidate))
            if not there or there != here:
                return None
        return twin

    def tell(self, candidate: Candidate, knobs: Knobs, built: Sequence[Built], evaluation: Evaluation) -> None:
        """Takes note of what was measured."""
        if (key := _key(knobs, built, candidate)) and evaluation.correct and evaluation.timings:
            with self._lock:
                self._known.setdefault(key, Twin(candidate, evaluation))


def repeated(twin: Twin, reports: Sequence[RungReport], platform: str) -> Evaluation:
    """The Evaluation of a candidate that repeats `twin`, after the rungs that it climbed itself."""
    said = f"not measured: its launches are those of {twin.candidate.id}, whose findings these are"
    found = twin.evaluation
    return replace(
        found,
        rungs=(*reports, RungReport(Rung.CORRECT, "skipped", 0.0, said, platform)),
        labels=(*found.labels, said),
        guards=tuple(Guard(guard.name, "not run", said) for guard in found.guards),
        device_seconds=0.0,
    )


def _tuned(builder: Builds, candidate: Candidate, choice: Mapping[str, Choice], workload: str) -> str:
    try:
        return _key({}, builder.build(candidate.source, choice, (workload,)), candidate)
    except Failed:
        return ""


def _key(knobs: Knobs, built: Sequence[Built], candidate: Candidate) -> str:
    """A digest of everything that counts; empty where the compiler said nothing of a launch, where not all launches are
    known, or where the file cannot be split into kernels and Python."""
    host = host_program(candidate.source)
    if not host or not built or not all(one.resources and all(r.binary for r in one.resources) for one in built):
        return ""
    if any(one.unrecorded for one in built):
        return ""
    facts = [host, {name: list(allowed) for name, allowed in knobs.items()}, [_facts(one) for one in built]]
    return hashlib.sha256(codec.dumps(facts).encode()).hexdigest()


def host_program(source: str) -> str:
    """What is left of a file without comments and the bodies of its kernels, which no Python runs; empty where a kernel
    cannot be told for sure, because `triton` or `jit` might be something else than Triton's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate's odd escapes are its own
            tree = parse(source)
        bound = {a.asname or a.name: a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        if bound.get("triton") != "triton" or any(_rebinds(node) for node in ast.walk(tree)):
            return ""
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "triton.jit" for d in node.decorator_list):
                node.body = []
        return ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError):
        return ""


def _rebinds(node: ast.AST) -> bool:
    """Whether `triton` or something of it might be bound anew here."""
    if isinstance(node, ast.Name):
        return node.id in _REACHES_NAMES or (node.id == "triton" and not isinstance(node.ctx, ast.Load))
    if isinstance(node, ast.Attribute):
        return node.attr == "jit" and not isinstance(node.ctx, ast.Load)
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name == "triton"
    if isinstance(node, ast.alias):
        return (node.asname or node.name) == "triton" and node.name != "triton"
    return isinstance(node, ast.arg) and node.arg == "triton"


def _facts(built: Built) -> list[object]:
    plans = [built.plan, built.gradients] if built.gradients is not None else [built.plan]
    kernels = {name: i for i, name in enumerate(dict.fromkeys(run.kernel for plan in plans for run in plan.launches))}
    code = [[kernels.get(r.kernel, -1), r.binary, r.warps, r.shared_bytes] for r in built.resources]
    return [*(_planned(plan, kernels) for plan in plans), code]


def _planned(plan: LaunchPlan, kernels: Mapping[str, int]) -> list[object]:
    launches = [
        [
            kernels[launch.kernel], launch.grid, launch.options, list(launch.signature.values()),
            list(launch.constants.values()), list(launch.arguments.values()),
        ]
        for launch in plan.launches
    ]  # fmt: skip
    return [plan.workload, plan.buffers, launches, plan.fills, plan.copies]
