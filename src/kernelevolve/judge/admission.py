"""What is wrong with a problem itself, found on small inputs: labels for its Description.

In: a problem's scaled Description. Out: labels such as `output identically zero` or `dead parameter fc.bias`. Left to
others: refusing the problem (`evaluate`). Labels describe: where they stand, `torch.zeros`, or a kernel that leaves a
parameter out, is a correct answer.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve.judge import oracle
from kernelevolve.problem import Problem
from kernelevolve.protocol import Case, Description, Opened
from kernelevolve.tensors import call, draw, load

PATIENCE = 10.0  # seconds for looking at parameters and inputs one by one
UNMOVED = 1e-9  # of the output's rms, in fp64: anything that moves the output less is dead


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


def open_on_cpu(problem: Problem, description: Description) -> Opened:
    """The conversation's start for comparing this size on the CPU."""
    return Opened(description, "cpu", problem.precision, problem.direction, problem.mode)


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
