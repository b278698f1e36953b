"""What is wrong with a problem itself: labels for its Description, and what null models and honest kernels would get.

In: a problem's scaled Description; or a Reference and a distribution. Out: labels such as `output identically zero` or
`dead parameter fc.bias`; `Tried`. Left to others: null models (`nulls`) and honest controls (`controls`) themselves,
refusing the problem or dropping a distribution (`evaluate.admission`). Labels describe: where they stand, a kernel
that leaves a parameter out is a correct answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve.judge import accept, controls, nulls, oracle
from kernelevolve.judge.leaf import Leaf, relative, rms_terms
from kernelevolve.judge.nulls import Made
from kernelevolve.judge.reference import Reference
from kernelevolve.problem import Problem
from kernelevolve.protocol import Case, Description, NullModel, Opened, Tolerance, Tried
from kernelevolve.tensors import call, draw, load
from kernelevolve.tensors.outputs import dtype_name

PATIENCE = 10.0  # seconds for looking at parameters and inputs one by one
UNMOVED = 1e-9  # of the output's rms, in fp64: anything that moves the output less is dead
UNTRIED = "admission: no null model was tried, outputs are random and compared by their distribution"
SEEDS = (11, 12, 13)  # a null model has to pass on all of them: a one-hot input may lie in the half that was kept


def labels(problem: Problem, description: Description) -> tuple[str, ...]:
    """Runs the reference in fp64 on its declared inputs and weights, then with one of them replaced at a time."""
    look = _Look(problem, description)
    base = look.outputs(look.inputs(1))
    found = [f"{path}: {what}" if len(base) > 1 else what for path, value in base if (what := _degenerate(value))]
    if len(found) == len(base):
        return tuple(found)
    deadline = time.monotonic() + PATIENCE
    for spec in description.state:
        if spec.redraw == "keep" or time.monotonic() > deadline or spec.name not in look.parameters:
            continue
        if not look.moves(base, look.inputs(1), spec.name):
            found.append(f"dead parameter {spec.name}")
    other = look.inputs(2)
    for position, name in enumerate(call.forward_names(look.model, len(other))):
        arguments = look.inputs(1)
        if _any_differs(arguments[position], other[position]) and time.monotonic() < deadline:
            arguments[position] = other[position]
            if not look.moves(base, arguments):
                found.append(f"dead input {name}")
    return tuple(found)


class _Look:
    """The reference in fp64 with its state put back before each run."""

    def __init__(self, problem: Problem, description: Description) -> None:
        self.problem, self.description = problem, description
        self.module = load.load_module(description.variant.source, problem.path)

        def build() -> Any:
            return load.build_model(self.module, seed=0, precision=problem.precision, mode=problem.mode)

        self.model = oracle.double_model(build(), build)
        self.start = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        self.parameters = {n for n, _ in self.model.named_parameters()}

    def inputs(self, seed: int) -> list[Any]:
        return oracle.double_inputs(draw.draw_inputs(self.description, Case(seed), "cpu", self.module))

    def outputs(self, arguments: list[Any], replace: str = "") -> list[tuple[str, Any]]:
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(self.start[name])
            if replace:
                tensor = dict(self.model.named_parameters())[replace]
                scale = max(tensor.abs().max().item(), 1.0)
                tensor.add_(torch.randn(tensor.shape, generator=draw.generator(3, replace, "cpu")) * scale)
        with load.blamed(self.module.__file__ or "", self.problem.path, "forward"), load.seeded(0), oracle.Upcast():
            return call.run(self.model, arguments)

    def moves(self, base: list[tuple[str, Any]], arguments: list[Any], replace: str = "") -> bool:
        return any(_differs(v, w) for (_, v), (_, w) in zip(base, self.outputs(arguments, replace), strict=True))


def try_distribution(reference: Reference, distribution: str, seconds: float = PATIENCE) -> Tried:
    """Puts null models and honest controls before the acceptance rule on inputs of one distribution.

    Args:
        seconds: after which no further null model is begun; what is left is named in the labels.

    Raises:
        ProblemError: the reference raises on these inputs.
    """
    start = time.monotonic()
    case = Case(SEEDS[0], distribution)
    computed = reference.compute(case)
    leaves = nulls.judged(reference.leaves(case))
    tolerances = tuple(_tolerance(leaf, reference.opened.precision) for leaf in leaves)
    found = [_non_finite(leaf, distribution) for leaf in leaves if distribution != draw.SPECIAL]
    labels = [label for label in found if label]
    models: list[NullModel] = []
    if reference.opened.random == "statistical":
        labels.append(UNTRIED)
        tolerances = ()
    elif computed.usable and any(leaf.finite or not leaf.floating for leaf in leaves):
        try:
            labels += _try_all(reference, case, models, start + seconds)
        except torch.OutOfMemoryError:
            after = models[-1].name if models else "none"
            labels.append(f"{distribution}: out of device memory, nothing was tried after {after!r}")
    reason = "" if computed.usable else computed.reason
    return Tried(distribution, reason, tuple(models), tolerances, tuple(labels), time.monotonic() - start)


def _try_all(reference: Reference, case: Case, models: list[NullModel], deadline: float) -> list[str]:
    """Fills `models`; the labels that follow from them."""
    labels = []
    honest: dict[str, Any] = {}
    for made in controls.controls(reference, case):
        if made.name == controls.AGAIN:
            honest = dict(made.values)
        models.append(_judged(reference, case, made, {}))
    source = _all_nulls(reference, case, honest)
    for made in source:
        found = _judged(reference, case, made, honest)
        if found.outcome == "accepted" and not made.whole and not made.name.startswith("last "):
            labels.append(f"{', '.join(made.values)}: {made.name} would do ({case.distribution})")
            found = NullModel(made.name, made.kind, "skipped", "other outputs have to be computed")
        elif found.outcome == "accepted" and not _again(reference, case.distribution, made):
            found = NullModel(made.name, made.kind, "rejected", "accepted on one seed, rejected on another")
        models.append(found)
        if time.monotonic() > deadline:
            labels.append(f"{case.distribution}: out of time, null models after {made.name!r} were not tried")
            break
    return labels


def _all_nulls(reference: Reference, case: Case, honest: dict[str, Any]) -> Iterator[Made]:
    yield from nulls.shortcuts(reference, case)
    yield from nulls.reruns(reference, case, honest)


def _again(reference: Reference, distribution: str, wanted: Made) -> bool:
    """Whether the null model of this name is accepted, or right, with the other seeds too."""
    for seed in SEEDS[1:]:
        case = Case(seed, distribution)
        if not reference.compute(case).usable:
            continue
        honest = dict(reference.rerun(case))
        for made in _all_nulls(reference, case, honest):
            if made.name == wanted.name:
                if _judged(reference, case, made, honest).outcome == "rejected":
                    return False
                break
    return True


def _judged(reference: Reference, case: Case, made: Made, honest: dict[str, Any]) -> NullModel:
    """What the acceptance rule says to one answer; outputs that it leaves open are given as the reference has them."""
    where = accept.Where(reference.opened.description.variant.label, case.distribution, case.seed)
    for leaf in nulls.judged(reference.leaves(case)):
        values = made.values.get(leaf.path)
        if values is None:
            continue
        found = reference.check_leaf(where, case, leaf, values)
        wrong = next((c for c in found.checks if not c.passed), None)
        if wrong is not None:
            detail = f"{wrong.name} {wrong.value:.3g} exceeds {wrong.limit:.3g}, {wrong.detail}"
            return NullModel(made.name, made.kind, "rejected", detail)
    return NullModel(made.name, made.kind, "accepted")


def _tolerance(leaf: Leaf, precision: str) -> Tolerance:
    name = dtype_name(leaf.dtype)
    if not leaf.floating or leaf.exact:
        return Tolerance(leaf.path, name, precision, "exact" if leaf.pick is None else "positions")
    terms = rms_terms(leaf, precision)
    decided = max(terms, key=lambda term: terms[term])
    size = leaf.pool.oracle_rms if leaf.few else leaf.rms
    return Tolerance(leaf.path, name, precision, "rms", terms[decided], relative(terms[decided], size), decided)


def _non_finite(leaf: Leaf, distribution: str) -> str:
    if not leaf.floating or not leaf.oracle.numel():
        return ""
    share = 1.0 - leaf.oracle.to(leaf.dtype).isfinite().double().mean().item()
    return f"{share:.3g} of {leaf.path} is NaN or infinite by the reference ({distribution})" if share > 0 else ""


def open_on_cpu(problem: Problem, description: Description) -> Opened:
    """The conversation's start for comparing this size on the CPU."""
    p = problem
    return Opened(
        description, "cpu", p.precision, p.direction, p.mode, random=p.random, special_values=p.special_values
    )


def _degenerate(value: Any) -> str:
    if not value.numel():
        return "output is empty"
    if value.is_floating_point() and not value.isfinite().any().item():
        return "output nowhere finite"
    if not value.any().item():
        return "output identically zero"
    if value.numel() > 1 and (value == value.reshape(-1)[0]).all().item():
        return "output constant"
    return ""


def _any_differs(one: Any, other: Any) -> bool:
    """Whether two arguments, each a tensor, a plain value or a container of them, differ anywhere."""
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return any(_differs(a, b) for a, b in pairs)


def _differs(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return bool(one != other)
    if not one.is_floating_point():
        return not torch.equal(one, other)
    a, b = torch.nan_to_num(one), torch.nan_to_num(other)
    if not a.numel():
        return False
    return bool((a - b).abs().max().item() > UNMOVED * max(a.square().mean().sqrt().item(), 1e-300))
